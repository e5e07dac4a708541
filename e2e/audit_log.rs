//! The API server's audit log: one file to which it appends, and older ones that it has put aside.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The log of one API server. Its files count as one, in the order in which they were written.
pub struct AuditLog(PathBuf);

impl AuditLog {
    /// That of the cluster with this kubeconfig.
    pub fn of(kubeconfig: &Path) -> Self {
        Self(kubeconfig.with_file_name("logs"))
    }

    /// How many bytes were written so far.
    pub fn length(&self) -> u64 {
        self.files().iter().map(|file| file.metadata().unwrap().len()).sum()
    }

    /// Reads the lines from that byte on, and gives up to which byte they go. The last one may still be on its way.
    pub fn read(&self, begin: u64, mut each: impl FnMut(&[u8])) -> u64 {
        let (mut skipped, mut end) = (begin, begin);
        for file in self.files() {
            let mut file = File::open(file).unwrap();
            let length = file.metadata().unwrap().len();
            if skipped > length {
                skipped -= length;
                continue;
            }
            file.seek(SeekFrom::Start(std::mem::take(&mut skipped))).unwrap();
            let (mut file, mut line) = (BufReader::new(file), Vec::new());
            while file.read_until(b'\n', &mut line).unwrap() > 0 && line.ends_with(b"\n") {
                end += u64::try_from(line.len()).unwrap();
                each(&line);
                line.clear();
            }
        }
        end
    }

    /// The files that were put aside have the time of that in their names.
    fn files(&self) -> Vec<PathBuf> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> =
            names.filter(|name| name.starts_with("audit-") && name.ends_with(".log")).collect();
        files.sort();
        files.push("audit.log".to_owned());
        files.into_iter().map(|name| self.0.join(name)).collect()
    }
}
