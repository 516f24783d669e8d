//! Which container a log file is of, by its path and by what the engine keeps beside it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

/// The most that is read of what Docker keeps of a container, in bytes.
const LONGEST: u64 = 1 << 20;
/// How much of an id people write.
const SHORT: usize = 12;

/// What Docker keeps of a container, in `config.v2.json`.
#[derive(Deserialize)]
struct DockerContainer {
    #[serde(rename = "Name")]
    name: String,
}

/// The container of a log file as people call it: Docker's name where it can be read, else the first characters of the
/// id; `NAMESPACE/POD/CONTAINER` in Kubernetes; `None` where the path does not tell.
pub fn container_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    // /var/lib/docker/containers/ID/ID-json.log
    if let Some((id, _)) = file.split_once("-json.log")
        && is_id(id)
    {
        return docker_name(folder).or_else(|| Some(id[..SHORT].to_owned()));
    }
    // /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log
    if let Some((pod, namespace, container)) = three(file.strip_suffix(".log").unwrap_or(file)) {
        let (container, id) = container.rsplit_once('-')?;
        return is_id(id).then(|| format!("{namespace}/{pod}/{container}"));
    }
    let mut above = folder.iter().rev().filter_map(|part| part.to_str());
    let (nearest, second) = (above.next()?, above.next()?);
    // /var/log/pods/NAMESPACE_POD_UID/CONTAINER/0.log
    if let Some((namespace, pod, _)) = three(second) {
        return Some(format!("{namespace}/{pod}/{nearest}"));
    }
    // /var/lib/containers/storage/overlay-containers/ID/userdata/ctr.log
    (nearest == "userdata" && is_id(second)).then(|| second[..SHORT].to_owned())
}

fn docker_name(folder: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(folder.join("config.v2.json")).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    let DockerContainer { name } = serde_json::from_slice(&text).ok()?;
    let name = name.trim_start_matches('/');
    (!name.is_empty() && name.len() <= 128).then(|| name.to_owned())
}

fn three(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.split('_');
    let three = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(three)
}

fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("/var/lib/docker/containers/ID/ID-json.log", Some("0123456789ab"))]
    #[case("/var/lib/docker/containers/ID/ID-json.log.1", Some("0123456789ab"))]
    #[case(
        "/var/log/containers/web-6d4cf56db6-x2x7k_shop_nginx-ID.log",
        Some("shop/web-6d4cf56db6-x2x7k/nginx")
    )]
    #[case(
        "/var/log/pods/shop_web-6d4cf56db6-x2x7k_0b1c/nginx/0.log",
        Some("shop/web-6d4cf56db6-x2x7k/nginx")
    )]
    #[case("/var/lib/containers/storage/overlay-containers/ID/userdata/ctr.log", Some("0123456789ab"))]
    #[case("/var/log/app_2026_11.log", None)]
    #[case("/var/log/auth.log", None)]
    #[case("/ctr.log", None)]
    fn the_container_is_told_by_the_path(#[case] path: &str, #[case] expected: Option<&str>) {
        assert_eq!(container_of(Path::new(&path.replace("ID", ID))).as_deref(), expected, "{path}");
    }

    #[test]
    fn the_name_is_the_one_that_docker_keeps_beside_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join(format!("{ID}-json.log"));
        assert_eq!(container_of(&log).as_deref(), Some("0123456789ab"));
        let kept = r#"{"StreamConfig":{},"ID":"0123","Name":"/web","Driver":"overlay2"}"#;
        std::fs::write(folder.path().join("config.v2.json"), kept).unwrap();
        assert_eq!(container_of(&log).as_deref(), Some("web"));
    }
}
