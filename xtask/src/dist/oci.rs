//! An image of the enforcer for container engines, as the OCI's image layout has it (image-spec 1.0): the static program
//! for each processor, a user of its own, and the folders that it writes to. Nothing else is inside, no shell either.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::Process;
use serde_json::{Value, json};

use super::archive::{digest, gzip, tar};
use super::build::{Built, Processor, said, start};
use super::origin;
use crate::daemons::image::contained;
use crate::run::announce;

/// The user in the image, by number so that an engine can see that it is not root.
const USER: u32 = 64_443;
const PROGRAM: &str = "atalaya-enforcer";
/// The folder that outlives a container.
const STATE: &str = "var/lib/atalaya-enforcer";
const SOCKETS: &str = "run/atalaya-enforcer";
/// The annotation by which tools find an image in a layout.
const TAG: &str = "org.opencontainers.image.ref.name";
/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an engine does around a program: `$1` its root, `$2` its user, `$3` its name.
const ENGINE: &str = r#"
set -e
mkdir -p "$1/proc" "$1/dev"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=755 none "$1/dev"
for device in null:3 random:8 urandom:9; do
    mknod -m 666 "$1/dev/${device%:*}" c 1 "${device#*:}"
done
exec chroot --userspec="$2:$2" "$1" "/usr/bin/$3" run
"#;

/// A layout that is being written.
struct Layout<'a> {
    folder: &'a Path,
}

// === impl Layout ===

impl Layout<'_> {
    /// Adds a file under its digest; what refers to it.
    fn add(&self, kind: &str, file: &Path) -> Result<Value> {
        let (digest, size) = (digest(file)?, std::fs::metadata(file)?.len());
        std::fs::rename(file, self.folder.join("blobs/sha256").join(&digest))?;
        let kind = format!("application/vnd.oci.image.{kind}");
        Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
    }

    fn add_json(&self, kind: &str, value: &Value) -> Result<Value> {
        let draft = self.folder.join("draft");
        std::fs::write(&draft, serde_json::to_vec(value)?)?;
        self.add(&format!("{kind}+json"), &draft)
    }

    /// Adds the image for a processor; what refers to its manifest.
    fn add_image(&self, program: &Path, processor: Processor, work: &Path) -> Result<Value> {
        let root = work.join("rootfs");
        file_root(program, &root)?;
        let plain = work.join("layer.tar");
        tar(&root, &["etc", "tmp", "usr", "var"], 0, &plain)?;
        tar(&root, &[STATE, SOCKETS], USER, &plain)?;
        let layer = gzip(&plain)?;
        let content = format!("sha256:{}", digest(&plain)?);
        let created: i64 = origin::moment()?.parse().context("SOURCE_DATE_EPOCH is no number")?;
        let created = jiff::Timestamp::from_second(created)?.to_string();
        let config = json!({
            "created": created,
            "architecture": processor.debian(),
            "os": "linux",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Entrypoint": [format!("/usr/bin/{PROGRAM}")],
                "Cmd": ["run"],
                "ExposedPorts": {"8443/tcp": {}},
                "Volumes": {format!("/{STATE}"): {}},
                "StopSignal": "SIGTERM",
                "Labels": {
                    "org.opencontainers.image.title": PROGRAM,
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": "AGPL-3.0-only",
                    "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [content]},
            "history": [{"created": created, "created_by": "cargo xtask dist --all"}],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.add_json("config.v1", &config)?,
            "layers": [self.add("layer.v1.tar+gzip", &layer)?],
        });
        let mut manifest = self.add_json("manifest.v1", &manifest)?;
        manifest["platform"] = json!({"architecture": processor.debian(), "os": "linux"});
        Ok(manifest)
    }
}

/// Writes the image for all processors into one archive, which `podman load` and `skopeo` read, and starts what it holds.
pub fn pack(images: &[(Processor, Vec<Built>)], folder: &Path) -> Result<PathBuf> {
    let stage = tempfile::Builder::new().prefix(".image").tempdir_in(folder)?;
    let at = stage.path().join("layout");
    std::fs::create_dir_all(at.join("blobs/sha256"))?;
    let layout = Layout { folder: &at };
    let mut manifests = Vec::new();
    for (processor, built) in images {
        let mut programs = built.iter().map(|built| &built.program);
        let program = programs.find(|program| program.ends_with(PROGRAM)).context("no enforcer is built")?;
        let work = stage.path().join(processor.debian());
        std::fs::create_dir(&work)?;
        manifests.push(layout.add_image(program, *processor, &work)?);
    }
    let version = env!("CARGO_PKG_VERSION");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    let mut all = layout.add_json("index.v1", &index)?;
    all["annotations"] = json!({TAG: version});
    let mut tagged = vec![all];
    // By a name of its own too, for tools that take no choice of processors.
    for ((processor, _), mut manifest) in images.iter().zip(manifests) {
        manifest["annotations"] = json!({TAG: format!("{version}-{}", processor.debian())});
        tagged.push(manifest);
    }
    let index = json!({"schemaVersion": 2, "manifests": tagged});
    std::fs::write(at.join("index.json"), serde_json::to_vec(&index)?)?;
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    for (processor, _) in images {
        starts(&at, *processor, stage.path())?;
    }
    let to = folder.join(format!("{PROGRAM}-{version}.oci.tar"));
    if to.exists() {
        std::fs::remove_file(&to)?;
    }
    tar(&at, &["blobs", "index.json", "oci-layout"], 0, &to)?;
    Ok(to)
}

/// Unpacks the image with another's tool, and starts what is inside as an engine would.
fn starts(layout: &Path, processor: Processor, work: &Path) -> Result<()> {
    let (bundle, version) = (work.join(format!("bundle-{}", processor.debian())), env!("CARGO_PKG_VERSION"));
    let mut unpack = Command::new("umoci");
    unpack.args(["raw", "unpack", "--image"]).arg(format!(
        "{}:{version}-{}",
        layout.display(),
        processor.debian()
    ));
    announce("that another's tool reads it", unpack.arg(&bundle))?;
    let root = bundle;
    if !processor.is_here() {
        // Emulated without a root of its own: the emulator is not inside.
        return said(start(&root.join("usr/bin").join(PROGRAM), processor).arg("--version")).map(drop);
    }
    std::fs::write(root.join("etc/atalaya/enforcer.toml"), "listen = \"127.0.0.1:0\"\n")?;
    let mut engine = contained(&["--net"], ENGINE);
    engine.arg(&root).args([&USER.to_string(), PROGRAM]);
    let mut enforcer = Process::start("the image's enforcer", &mut engine)?;
    enforcer.wait_for("become ready", PATIENCE, |line| line.contains("ready"))?;
    enforcer.kill()
}

/// What is in the image.
fn file_root(program: &Path, root: &Path) -> Result<()> {
    for folder in ["usr/bin", "etc/atalaya", SOCKETS, STATE, "tmp"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::copy(program, root.join("usr/bin").join(PROGRAM))?;
    std::fs::write(
        root.join("etc/passwd"),
        format!("{PROGRAM}:x:{USER}:{USER}::/{STATE}:/usr/sbin/nologin\n"),
    )?;
    std::fs::write(root.join("etc/group"), format!("{PROGRAM}:x:{USER}:\n"))?;
    std::fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    Ok(())
}
