//! What is packaged beside the programs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::Stage;

#[test]
fn systemd_finds_nothing_to_complain_of_in_the_sensors_unit() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd/atalaya-sensor.service");
    let text = std::fs::read_to_string(&unit).with_context(|| unit.display().to_string())?;
    let program = stage.sensor().get_program().to_string_lossy().into_owned();
    let here = stage.folder().join("atalaya-sensor.service");
    std::fs::write(&here, text.replace("/usr/bin/atalaya-sensor", &program))?;
    let verify = Command::new("systemd-analyze").arg("verify").arg(&here).output()?;
    let said = String::from_utf8_lossy(&verify.stderr);
    ensure!(verify.status.success() && said.is_empty(), "{said}");
    // The smaller the exposure the better; 10 is a service without any bounds.
    let security = output(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&here))?;
    let line = security.lines().find(|line| line.contains("Overall exposure level")).context("no level")?;
    let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).context(line.to_owned())?;
    ensure!(level < 5.0, "{line}");
    Ok(())
}
