// Starts, watches and ends the processes of the end-to-end cluster. Standard library only, so that it builds in seconds.
module countersign/e2e/tools/cluster

go 1.26.0
