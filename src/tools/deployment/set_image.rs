use crate::api::{ActionType, Operation, ResourceCategory};
use crate::cluster::{ImageError, ImageReference, parse_image};
use crate::tools::pod_template::{Container, PodTemplate, one_of};
use crate::tools::{
    Found, FoundObject, ProposedStep, Target, TargetQuery, Tool, ToolError, parameters::schema, parse, subject,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Another image for one container.
pub(in crate::tools) struct SetImage;

const DEFAULT_KINDS: &[&str] = &["deployments.apps", "statefulsets.apps", "daemonsets.apps", "cronjobs.batch"];

/// Tags that are words; any other bare word might as well be a repository.
const TAG_WORDS: [&str; 12] =
    ["latest", "stable", "edge", "main", "master", "nightly", "canary", "beta", "alpha", "rc", "dev", "lts"];

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameters {
    /// What runs the container.
    #[serde(default)]
    target: Target,
    /// The new image: `nginx:1.28`, `registry.example/team/app:v2`; or only the new tag: `v2`, `:v2`.
    image: Option<String>,
    /// Name of the container, when the request names one.
    container: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum NewImage {
    /// The whole reference.
    Whole(ImageReference),
    /// Another tag of the same repository.
    Tag(String),
    /// Another digest of the same repository.
    Digest(String),
    /// A single word that is a repository or a tag.
    Unclear(String),
}

impl NewImage {
    fn parse(text: &str) -> Result<Self, ToolError> {
        let text = text.trim();
        // The grammar of a tag or a digest is judged behind a repository that is surely right.
        let part = |suffix: &str| parse_image(&format!("image{suffix}")).map_err(|error| refused(text, &error));
        if text.starts_with(':') {
            return Ok(part(text)?.tag.map_or_else(|| Self::Unclear(text.to_owned()), Self::Tag));
        }
        if text.starts_with('@') {
            return Ok(part(text)?.digest.map_or_else(|| Self::Unclear(text.to_owned()), Self::Digest));
        }
        if !text.is_empty() && !text.contains(['/', ':', '@']) {
            if is_tag(text) {
                return part(&format!(":{text}")).map(|_| Self::Tag(text.to_owned()));
            }
            parse_image(text).map_err(|error| refused(text, &error))?;
            return Ok(Self::Unclear(text.to_owned()));
        }
        parse_image(text).map(Self::Whole).map_err(|error| refused(text, &error))
    }
}

fn refused(text: &str, error: &ImageError) -> ToolError {
    ToolError::invalid(match error {
        ImageError::Tag { tag, .. } if text.starts_with(':') => {
            ImageError::Tag { image: text.into(), tag: tag.clone() }.to_string()
        }
        error => error.to_string(),
    })
}

/// Whether a single word is a version (`1.27`, `v2`, `2024-05-01`), a commit, or one of the words used as tags.
fn is_tag(word: &str) -> bool {
    let versioned = word.strip_prefix(['v', 'V']).unwrap_or(word).starts_with(|c: char| c.is_ascii_digit());
    let commit = (7..=40).contains(&word.len())
        && word.bytes().all(|b| b.is_ascii_hexdigit())
        && word.bytes().any(|b| b.is_ascii_digit());
    let head = word.split(['-', '.', '_']).next().unwrap_or(word);
    versioned || commit || TAG_WORDS.contains(&head)
}

impl Parameters {
    fn image(&self) -> Result<NewImage, ToolError> {
        let Some(image) = self.image.as_deref().filter(|image| !image.trim().is_empty()) else {
            return Err(ToolError::ask(format!(
                "Which image should {} run? Say an image such as nginx:1.28, or only the new tag.",
                self.target.name.as_deref().unwrap_or("it")
            )));
        };
        NewImage::parse(image)
    }
}

impl Tool for SetImage {
    fn name(&self) -> &'static str {
        "set_image"
    }

    fn category(&self) -> ResourceCategory {
        ResourceCategory::Deployment
    }

    fn action(&self) -> ActionType {
        ActionType::Update
    }

    fn description(&self) -> &'static str {
        "Changes the image of one container of a workload, or only the image's tag: a release of a new version."
    }

    fn examples(&self) -> &'static [&'static str] {
        &[
            "set the image of checkout to nginx:1.28 in staging",
            "release version v2 of checkout",
            "update the container proxy of checkout to envoy:v1.31",
        ]
    }

    fn parameters(&self) -> schemars::Schema {
        schema::<Parameters>()
    }

    fn targets(&self, parameters: &Map<String, Value>) -> Result<Vec<TargetQuery>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        parameters.image()?;
        Ok(vec![subject::query(&parameters.target, DEFAULT_KINDS, true)])
    }

    fn compile(&self, parameters: &Map<String, Value>, found: &Found) -> Result<Vec<ProposedStep>, ToolError> {
        let parameters: Parameters = parse(self.name(), parameters)?;
        let image = parameters.image()?;
        let subjects = subject::subjects(&parameters.target, found, "given a new image")?;
        let steps: Result<Vec<_>, _> =
            subjects.iter().map(|subject| step(subject, &image, parameters.container.as_deref())).collect();
        Ok(steps?.into_iter().flatten().collect())
    }
}

fn step(subject: &FoundObject, new: &NewImage, named: Option<&str>) -> Result<Option<ProposedStep>, ToolError> {
    let reference = &subject.reference;
    let template = PodTemplate::of(&subject.object)
        .ok_or_else(|| ToolError::invalid(format!("{reference} has no containers, so there is no image to change")))?;
    let container = match named {
        Some(name) => template.container(name, reference)?,
        None => chosen(&template.containers(), new, reference)?,
    };
    let image = new_image(&container, new, reference)?;
    let to = image.to_string();
    if container.image() == to {
        return Ok(None);
    }
    let pointer = &container.pointer;
    let mut warnings = Vec::new();
    if image.is_floating() {
        warnings.push(format!("{to} names no fixed version: what runs may change whenever a pod starts."));
    }
    Ok(Some(ProposedStep {
        title: format!("Set image of container {} in {reference} from {} to {to}", container.name(), container.image()),
        // The name is tested, so that a container that was inserted before ours meanwhile is not hit instead.
        operation: Operation::json_patch(
            reference.clone(),
            json!([
                { "op": "test", "path": format!("{pointer}/name"), "value": container.name() },
                { "op": "replace", "path": format!("{pointer}/image"), "value": to },
            ]),
        ),
        warnings,
        ..ProposedStep::default()
    }))
}

/// The only container, or the only one that runs another version of the same image.
fn chosen<'o>(
    containers: &[Container<'o>],
    new: &NewImage,
    reference: &impl std::fmt::Display,
) -> Result<Container<'o>, ToolError> {
    if let (NewImage::Whole(image), true) = (new, containers.len() > 1) {
        let same: Vec<_> = containers
            .iter()
            .filter(|container| {
                parse_image(container.image()).is_ok_and(|current| current.canonical_name() == image.canonical_name())
            })
            .collect();
        if let [one] = same.as_slice() {
            return Ok((*one).clone());
        }
    }
    one_of(containers, reference)
}

fn new_image(
    container: &Container<'_>,
    new: &NewImage,
    reference: &impl std::fmt::Display,
) -> Result<ImageReference, ToolError> {
    let current = || {
        parse_image(container.image()).map_err(|error| {
            ToolError::invalid(format!(
                "the image of container {} in {reference} cannot be read ({error}): give the whole new image",
                container.name()
            ))
        })
    };
    match new {
        NewImage::Whole(image) => Ok(image.clone()),
        NewImage::Tag(tag) => Ok(current()?.with_tag(tag)),
        NewImage::Digest(digest) => Ok(current()?.with_digest(digest)),
        NewImage::Unclear(word) => {
            let choices = vec![current()?.with_tag(word).to_string(), format!("{word}:latest")];
            let question = format!(
                "Is '{word}' a tag or an image? Say {}.",
                choices.iter().map(|c| format!("'{c}'")).collect::<Vec<_>>().join(" or ")
            );
            Err(ToolError::Ask { question, choices })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures::{as_kind, compile, deployment, error, found, patched, step};
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn checkout() -> Value {
        deployment("staging", "checkout", "nginx:1.27")
    }

    fn two_containers() -> Value {
        let mut object = checkout();
        object["spec"]["template"]["spec"]["containers"] = json!([
            { "name": "web", "image": "docker.io/library/nginx:1.27" },
            { "name": "proxy", "image": "envoyproxy/envoy:v1.30" },
        ]);
        object
    }

    fn to(image: &str) -> Value {
        json!({ "target": { "name": "checkout" }, "image": image })
    }

    fn image_after(object: &Value, parameters: Value) -> String {
        let step = step(&SetImage, parameters, &found(std::slice::from_ref(object)));
        let after = patched(object, &step);
        after["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    }

    #[test]
    fn one_container_gets_the_image_and_nothing_else_changes() {
        let step = step(&SetImage, to("nginx:1.28"), &found(&[checkout()]));
        insta::assert_snapshot!(step.title,
            @"Set image of container web in Deployment staging/checkout from nginx:1.27 to nginx:1.28");
        let mut expected = checkout();
        expected["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:1.28");
        assert_eq!(patched(&checkout(), &step), expected);
        assert!(step.warnings.is_empty());
    }

    #[test]
    fn a_tag_or_digest_alone_keeps_the_repository() {
        let object = deployment("staging", "checkout", &format!("ghcr.io/team/app:1@{DIGEST}"));
        assert_eq!(image_after(&object, to("v2")), "ghcr.io/team/app:v2");
        assert_eq!(image_after(&object, to(":broken")), "ghcr.io/team/app:broken");
        assert_eq!(image_after(&object, to("1.27-alpine")), "ghcr.io/team/app:1.27-alpine");
        assert_eq!(image_after(&object, to("3f2a9bc")), "ghcr.io/team/app:3f2a9bc");
        assert_eq!(image_after(&object, to(&format!("@{DIGEST}"))), format!("ghcr.io/team/app@{DIGEST}"));
    }

    #[test]
    fn a_single_word_that_could_be_either_is_a_question() {
        let asked = compile(&SetImage, to("httpd"), &found(&[checkout()])).unwrap_err();
        insta::assert_snapshot!(asked, @"Is 'httpd' a tag or an image? Say 'nginx:httpd' or 'httpd:latest'.");
    }

    #[test]
    fn the_container_is_the_named_one_or_the_one_with_the_same_repository() {
        let object = two_containers();
        assert_eq!(image_after(&object, to("nginx:1.28")), "nginx:1.28");
        let mut named = to("v2");
        named["container"] = json!("web");
        assert_eq!(image_after(&object, named.clone()), "docker.io/library/nginx:v2");
        named["container"] = json!("wbe");
        insta::assert_snapshot!(error(&SetImage, named, &found(&[object])),
            @"Deployment staging/checkout has no container 'wbe'. Which one is meant: web, proxy?");
    }

    #[test]
    fn several_containers_without_a_name_are_a_question() {
        for image in ["v2", "httpd:2"] {
            insta::allow_duplicates! {
                insta::assert_snapshot!(error(&SetImage, to(image), &found(&[two_containers()])),
                    @"Deployment staging/checkout has the containers web, proxy. Which one is meant?");
            }
        }
    }

    #[test]
    fn the_same_image_needs_no_step_and_a_floating_one_a_warning() {
        assert_eq!(compile(&SetImage, to("nginx:1.27"), &found(&[checkout()])), Ok(vec![]));
        let step = step(&SetImage, to("team/app:latest"), &found(&[checkout()]));
        insta::assert_snapshot!(step.warnings[0],
            @"team/app:latest names no fixed version: what runs may change whenever a pod starts.");
    }

    #[test]
    fn what_is_no_image_is_refused_and_a_missing_one_asked_for() {
        let error = |image: &str| error(&SetImage, to(image), &found(&[checkout()]));
        insta::assert_snapshot!(error("Team/App:1"),
            @"'Team/App:1' is not an image: the repository must be in lower case, 'app' instead of 'App'");
        insta::assert_snapshot!(error(":.x"), @"':.x' is not an image: the tag '.x' must be 1 to 128 letters, digits, '_', '.' and '-', and not begin with '.' or '-'");
        insta::assert_snapshot!(error("nginx 1.28"), @"'nginx 1.28' is not an image: there must be no white space in it");
        insta::assert_snapshot!(error(" "),
            @"Which image should checkout run? Say an image such as nginx:1.28, or only the new tag.");
    }

    #[test]
    fn cron_jobs_keep_their_template_deeper() {
        let mut object = as_kind(checkout(), "batch/v1", "CronJob");
        object["spec"] = json!({ "jobTemplate": { "spec": checkout()["spec"] } });
        let step = step(&SetImage, to("nginx:1.28"), &found(std::slice::from_ref(&object)));
        let after = patched(&object, &step);
        assert_eq!(
            after.pointer("/spec/jobTemplate/spec/template/spec/containers/0/image"),
            Some(&json!("nginx:1.28"))
        );
    }

    #[test]
    fn what_runs_no_containers_has_no_image() {
        let service =
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "checkout", "namespace": "a" } });
        insta::assert_snapshot!(error(&SetImage, to("nginx:1.28"), &found(&[service])),
            @"Service a/checkout has no containers, so there is no image to change");
    }

    proptest! {
        #[test]
        fn any_text_is_an_image_a_question_or_refused(text in ".{0,30}") {
            let _ = compile(&SetImage, to(&text), &found(&[checkout()]));
        }
    }
}
