//! Logins that reach the sensor by other ways than this host's libaudit: in containers, through PAM itself, from
//! programs that know their peer by name, through syslog; and who is not believed. Needs root.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::container::{Container, Root};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{Stage, is_ready};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const NOBODY: u32 = 65534;

/// A sensor without an enforcer.
fn sensor(stage: &Stage, config: &str) -> Result<Process> {
    stage.write_sensor_config(config)?;
    let mut command = stage.sensor();
    command.args(["--log", "info", "--log-format", "json", "run"]);
    let mut sensor = Process::start("the sensor", &mut command)?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    Ok(sensor)
}

const LOGINS: &str = "ignoreself = false\n[jail.all]\nsource = \"logins\"\nmaxretry = 100\n";
const SYSLOG_CALLS: &str = "[jail.calls]\nsource = \"syslog-calls\"\nmaxretry = 100\n\
    failregex = ': Failed .*password for .* from <HOST> port \\d+ ssh2$'\n";

fn failure_of(address: &str) -> impl Fn(&str) -> bool {
    move |line| {
        line.contains("\"message\":\"failure\"") && line.contains(&format!("\"address\":\"{address}\""))
    }
}

/// Where a program is attached, or why not, once that is as wanted.
fn wait_for_program(stage: &Stage, name: &str, wanted: impl Fn(&str, &str) -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = output(stage.sensor().args(["status", "--json"]))?;
        let status: Value = serde_json::from_str(&text)?;
        let programs = status["programs"].as_array().context("no programs")?;
        let program = programs.iter().find(|program| program["name"] == name).context("no such program")?;
        let (state, reason) = (program["state"].as_str(), program["reason"].as_str());
        if wanted(state.unwrap_or_default(), reason.unwrap_or_default()) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{name} is not as wanted: {program}");
        }
    }
}

#[test]
fn logins_in_a_container_are_seen_and_its_files_are_let_go_of() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.90.2"])?);
    let mut sensor = sensor(&stage, LOGINS)?;
    let root = Root::new()?;
    let container = Container::start(&root, &network)?;
    wait_for_program(&stage, "logins: audit", |_, reason| reason.contains("container"))?;
    container.fail_logins("10.214.90.2".parse()?, 2)?;
    // Its sshd sees this host's address, through its own copies of the libraries.
    sensor.wait_for("see the first failure", PATIENCE, failure_of("10.214.90.1"))?;
    let second = sensor.wait_for("see the second failure", PATIENCE, failure_of("10.214.90.1"))?;
    ensure!(second.text.contains("\"failures\":2"), "{}", second.text);
    container.stop()?;
    wait_for_program(&stage, "logins: audit", |_, reason| !reason.contains("container"))?;
    root.unmount()
}

#[test]
fn a_root_of_this_hosts_own_namespaces_is_found_and_let_go_of_when_it_ends() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let sensor = sensor(&stage, LOGINS)?;
    let root = Root::new()?;
    let container = Container::start_in_root_alone(&root)?;
    wait_for_program(&stage, "logins: audit", |_, reason| reason.contains("container"))?;
    // The probe holds its files: that this fails is what makes the end of this test mean something.
    container.stop()?;
    wait_for_program(&stage, "logins: audit", |_, reason| !reason.contains("container"))?;
    root.unmount()?;
    drop(sensor);
    Ok(())
}

#[test]
fn a_containers_root_cannot_accuse_who_is_not_connected_to_it() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, LOGINS)?;
    let root = Root::of_this_host()?;
    let script = "import ctypes, time\n\
        audit = ctypes.CDLL('libaudit.so.1')\n\
        for n in range(5): audit.audit_log_acct_message(-1, 1100, None, b'x', b'x', -1, b'10.77.0.1', None, b'x', 0)\n\
        print('done', flush=True)\n\
        time.sleep(60)\n";
    let mut liar = Process::start("the liar", root.command("/usr/bin/python3").args(["-c", script]))?;
    liar.wait_for("lie", PATIENCE, |line| line == "done")?;
    let line = sensor.wait_for("count the lies", PATIENCE, |line| line.contains("not believed"))?;
    // Other tests lie too, and all sensors of a host hear all.
    let event: Value = serde_json::from_str(&line.text)?;
    ensure!(event["forged"].as_u64().is_some_and(|forged| forged >= 5), "{event}");
    ensure!(!sensor.said().contains("10.77.0.1"), "a lie was counted");
    Ok(())
}

#[test]
fn where_pam_is_asked_itself_one_attempt_is_one_failure() -> Result<()> {
    let attackers = ["10.214.91.2", "10.214.91.3", "10.214.91.4", "fd42:91::2"];
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&attackers)?);
    let sshd = Sshd::start(&network)?;
    let mut sensor = sensor(&stage, &format!("{LOGINS}[logins]\nverdicts = \"pam\"\n"))?;
    wait_for_program(&stage, "logins: pam", |state, _| state == "on")?;
    wait_for_program(&stage, "logins: audit", |state, _| state == "off")?;
    let [password, answers, unknown, by_ipv6] = attackers;
    let client = sshd.spawn_wrong_passwords(&network, password.parse()?, 2)?;
    for number in 1..=2 {
        let line = sensor.wait_for("see a wrong password", PATIENCE, failure_of(password))?;
        ensure!(line.text.contains(&format!("\"failures\":{number},")), "{}", line.text);
    }
    Sshd::finish(client, PATIENCE)?;
    // Keyboard-interactive asks PAM in a child of the process that knows the peer.
    let client = sshd.spawn_wrong_answers(&network, answers.parse()?, 1)?;
    sensor.wait_for("see a wrong answer", PATIENCE, failure_of(answers))?;
    Sshd::finish(client, PATIENCE)?;
    let client = sshd.spawn_unknown_user(&network, unknown.parse()?)?;
    sensor.wait_for("see an unknown user", PATIENCE, failure_of(unknown))?;
    Sshd::finish(client, PATIENCE)?;
    let client = sshd.spawn_wrong_passwords(&network, by_ipv6.parse()?, 1)?;
    sensor.wait_for("see a wrong password over IPv6", PATIENCE, failure_of(by_ipv6))?;
    Sshd::finish(client, PATIENCE)?;
    for (attacker, failures) in [(password, 2), (answers, 1), (unknown, 1), (by_ipv6, 1)] {
        let counted = sensor.said().matches(&format!("\"address\":\"{attacker}\"")).count();
        ensure!(counted == failures, "{attacker}: {counted} of {failures}\n{}", sensor.said());
    }
    Ok(())
}

/// A server that asks libpam about its client, as the first argument names what it does, one line a verdict.
const ASKS_PAM: &str = r"
import ctypes, socket, sys
pam = ctypes.CDLL('libpam.so.0')
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
connection, (client, _) = server.accept()
conversation, handle = (ctypes.c_void_p * 2)(), ctypes.c_void_p()
def login(service, *steps):
    assert pam.pam_start(service, b'anna', conversation, ctypes.byref(handle)) == 0
    pam.pam_set_item(handle, 4, client.encode())
    said = [str(step()) for step in steps]
    print(service.decode(), *said, flush=True)
authenticate = lambda: pam.pam_authenticate(handle, 0)
account = lambda: pam.pam_acct_mgmt(handle, 0)
credentials = lambda: pam.pam_setcred(handle, 2)
end = lambda status: lambda: pam.pam_end(handle, status)
login(b'denies', authenticate, authenticate, end(7))
login(b'denies', authenticate, end(0))
login(b'permits', authenticate, account, credentials, end(0))
login(b'permits', authenticate, credentials, account, end(0))
login(b'permits', account, credentials, end(0))
login(b'permits', authenticate, account, end(0))
connection.recv(1)
";

#[test]
fn verdicts_of_pams_modules_are_seen_by_what_is_called_after_them() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.95.2"])?);
    stage.write_sensor_config(&format!("{LOGINS}[logins]\nverdicts = \"pam\"\n"))?;
    let mut command = stage.sensor();
    command.args(["--log", "debug", "--log-format", "json", "run"]);
    let mut sensor = Process::start("the sensor", &mut command)?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    wait_for_program(&stage, "logins: pam", |state, _| state == "on")?;
    // Services of its own, and so a mount namespace of its own. Neither module keeps what it said, as pam_unix does.
    let services = stage.folder().join("pam.d");
    std::fs::create_dir(&services)?;
    for (service, module) in [("denies", "pam_deny.so"), ("permits", "pam_permit.so")] {
        std::fs::write(
            services.join(service),
            format!("auth required {module}\naccount required {module}\nsession required {module}\n"),
        )?;
    }
    let script =
        format!("mount --bind {} /etc/pam.d && exec python3 -c \"$0\" 10.214.95.1", services.display());
    let mut unshare = Command::new("unshare");
    let mut server = Process::start("the server", unshare.args(["--mount", "sh", "-c", &script, ASKS_PAM]))?;
    let port = server.wait_for("listen", PATIENCE, |_| true)?.text;
    let connect = format!("import socket; socket.create_connection(('10.214.95.1', {port})).recv(1)");
    let mut python = network.command("python3");
    let _client = Process::start("the client", python.args(["-c", &connect]))?;
    // What libpam itself said, and how many logins of each kind that is.
    for said in
        ["denies 7 7 0", "denies 7 0", "permits 0 0 0 0", "permits 0 0 0 0", "permits 0 0 0", "permits 0 0 0"]
    {
        server.wait_for("ask PAM", PATIENCE, |line| line == said)?;
    }
    let login = |line: &str| line.contains("\"message\":\"login\"") && line.contains("10.214.95.2");
    for number in 1..=4 {
        sensor.wait_for(&format!("see login {number}"), PATIENCE, login)?;
    }
    // A verdict that nobody was told of afterwards: neither a module nor the end of the conversation says it.
    let failure = failure_of("10.214.95.2");
    let failures = sensor.said().lines().filter(|line| failure(line)).count();
    ensure!(failures == 2, "{failures} failures:\n{}", sensor.said());
    let logins = sensor.said().lines().filter(|line| login(line)).count();
    ensure!(logins == 4, "{logins} logins:\n{}", sensor.said());
    Ok(())
}

#[test]
fn a_peer_that_is_known_by_name_is_asked_of_getpeername() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.92.2"])?);
    let mut sensor = sensor(&stage, &format!("{LOGINS}[logins]\npeers = true\n"))?;
    wait_for_program(&stage, "logins: peers", |state, _| state == "on")?;
    // A server that reports its peer's failed login under a name, from a child as many do.
    let script = "import ctypes, os, socket, sys\n\
        audit = ctypes.CDLL('libaudit.so.1')\n\
        server = socket.create_server(('10.214.92.1', 0))\n\
        print(server.getsockname()[1], flush=True)\n\
        connection, _ = server.accept()\n\
        connection.getpeername()\n\
        if os.fork(): os.wait(); sys.exit()\n\
        audit.audit_log_acct_message(-1, 1100, None, b'x', b'x', -1, b'evil.example', None, b'x', 0)\n";
    let mut server = Process::start("the server", Command::new("python3").args(["-c", script]))?;
    let port = server.wait_for("listen", PATIENCE, |_| true)?.text;
    let connect = format!("import socket; socket.create_connection(('10.214.92.1', {port})).recv(1)");
    output(network.command("python3").args(["-c", &connect]))?;
    sensor.wait_for("see the failure", PATIENCE, failure_of("10.214.92.2"))?;
    Ok(())
}

#[test]
fn what_root_says_to_syslog_is_a_source_without_a_file() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut sensor = sensor(&stage, &format!("{SYSLOG_CALLS}services = [\"sshd\", \"python3\"]\n"))?;
    let script = "import ctypes\n\
        c = ctypes.CDLL(None)\n\
        c.__syslog_chk(38, 1, b'%.500s', b'Failed password for root from 10.78.0.1 port 22 ssh2')\n\
        c.syslog(38, b'Failed %s for %s from %s port %d ssh%d', b'password', b'root', b'10.78.0.2', 22, 2)\n";
    let say = |user: u32| {
        let mut python = Command::new("python3");
        output(python.args(["-c", script]).uid(user))
    };
    // A user's word comes first, and is not heard.
    say(NOBODY)?;
    say(0)?;
    sensor.wait_for("see the first line", PATIENCE, failure_of("10.78.0.1"))?;
    let line = sensor.wait_for("see the second line", PATIENCE, failure_of("10.78.0.2"))?;
    ensure!(line.text.contains("\"failures\":1,"), "a user's word counted: {}", line.text);
    Ok(())
}

#[test]
fn users_who_call_the_probed_functions_accuse_nobody() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let config =
        format!("{LOGINS}{SYSLOG_CALLS}services = \"python3\"\n[logins]\nverdicts = \"pam\"\npeers = true\n");
    let mut sensor = sensor(&stage, &config)?;
    let script = "import ctypes, socket\n\
        pam, c = ctypes.CDLL('libpam.so.0'), ctypes.CDLL(None)\n\
        conversation = (ctypes.c_void_p * 2)()\n\
        handle = ctypes.c_void_p()\n\
        pam.pam_start(b'su', b'nobody-of-this-name', conversation, ctypes.byref(handle))\n\
        pam.pam_set_item(handle, 4, b'10.79.0.1')\n\
        pam.pam_authenticate(handle, 0)\n\
        pam.pam_set_data(handle, b'unix_setcred_return', ctypes.byref(ctypes.c_int(7)), None)\n\
        pam.pam_setcred(handle, 2)\n\
        pam.pam_end(handle, 7)\n\
        server = socket.create_server(('127.0.0.1', 0))\n\
        client = socket.create_connection(server.getsockname())\n\
        client.getpeername()\n\
        c.__syslog_chk(38, 1, b'%s', b'Failed password for root from 10.79.0.2 port 22 ssh2')\n";
    let mut python = Command::new("python3");
    output(python.args(["-c", script]).uid(NOBODY).gid(NOBODY))?;
    // What comes after it is seen, so what came before it was looked at.
    let say = "import ctypes; ctypes.CDLL(None).syslog(38, b'Failed password for root from 10.79.0.3 port 22 ssh2')";
    output(Command::new("python3").args(["-c", say]))?;
    sensor.wait_for("see what root says", PATIENCE, failure_of("10.79.0.3"))?;
    sensor.wait_for("tell of the forgery", PATIENCE, |line| line.contains("not believed"))?;
    for nobody in ["10.79.0.1", "10.79.0.2"] {
        ensure!(!sensor.said().contains(nobody), "{nobody} was accused:\n{}", sensor.said());
    }
    Ok(())
}

#[test]
fn a_wrong_password_of_imap_is_seen_through_dovecots_auth_process() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.93.2"])?);
    let mut sensor = sensor(
        &stage,
        "[jail.imap]\nsource = \"logins\"\nservices = [\"auth\"]\nmaxretry = 100\n\
         [jail.mail]\nsource = \"logins\"\nservices = [\"imapd\"]\n",
    )?;
    let folder = stage.folder().join("dovecot");
    std::fs::create_dir(&folder)?;
    let config = folder.join("dovecot.conf");
    let at = folder.display();
    std::fs::write(
        &config,
        format!(
            "base_dir = {at}/run\nlog_path = /dev/stderr\nprotocols = imap\nssl = no\ndisable_plaintext_auth = no\n\
             listen = 10.214.93.1\nservice imap-login {{\n inet_listener imap {{\n port = 1143\n }}\n \
             inet_listener imaps {{\n port = 0\n }}\n}}\n\
             passdb {{\n driver = pam\n args = other\n}}\nuserdb {{\n driver = passwd\n}}\n"
        ),
    )?;
    let mut command = Command::new("dovecot");
    let mut dovecot = Process::start("dovecot", command.arg("-F").arg("-c").arg(&config))?;
    dovecot.wait_for("start", PATIENCE, |line| line.contains("starting up"))?;
    let client = "import socket\n\
        s = socket.create_connection(('10.214.93.1', 1143)).makefile('rw')\n\
        s.readline()\n\
        s.write('a login root wrong-password\\r\\n')\n\
        s.flush()\n\
        print(s.readline())\n";
    let answer = output(network.command("python3").args(["-c", client]))?;
    ensure!(answer.contains("AUTHENTICATIONFAILED"), "{answer}");
    sensor.wait_for("see the failure", PATIENCE, failure_of("10.214.93.2"))?;
    dovecot.terminate(PATIENCE)?;
    let status: Value = serde_json::from_str(&output(stage.sensor().args(["status", "--json"]))?)?;
    let seen = status["logins"].as_array().context("no logins")?;
    let seen = seen.iter().find(|seen| seen["service"] == "dovecot").context("dovecot was not seen")?;
    ensure!(seen["program"] == "auth" && seen["failed"].as_u64() >= Some(1), "{seen}");
    // Its process is called so too; nobody is called imapd.
    let troubles = |jail: usize| status["jails"][jail]["troubles"].to_string();
    ensure!(!troubles(0).contains("was seen yet"), "{}", troubles(0));
    ensure!(troubles(1).contains("no login of imapd was seen yet; those seen are of "), "{}", troubles(1));
    Ok(())
}

#[test]
fn a_wrong_password_of_ftp_bans_the_address_though_proftpd_says_a_name() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.94.2"])?);
    let jail = "[jail.ftp]\nsource = \"logins\"\nservices = [\"proftpd\"]\nmaxretry = 100\n";
    let mut sensor = sensor(&stage, &format!("{jail}[logins]\npeers = true\n"))?;
    let folder = stage.folder().join("proftpd");
    std::fs::create_dir(&folder)?;
    let at = folder.display();
    std::fs::write(
        folder.join("conf"),
        format!(
            "ServerName x\nServerType standalone\nDefaultAddress 10.214.94.1\nPort 2121\nUser nobody\nGroup nogroup\n\
             UseReverseDNS on\nRootLogin on\nUseFtpUsers off\nAuthPAM on\nAuthPAMConfig other\n\
             AuthOrder mod_auth_pam.c mod_auth_unix.c\nDelayEngine off\nWtmpLog off\nTransferLog none\n\
             ScoreboardFile {at}/score\nPidFile {at}/pid\n"
        ),
    )?;
    std::fs::write(folder.join("hosts"), "10.214.94.2 evil.example\n")?;
    // Its own file of hosts, and so a mount namespace of its own, as services of systemd have.
    let script = format!("mount --bind {at}/hosts /etc/hosts; exec proftpd -n -d 2 -c {at}/conf");
    let mut unshare = Command::new("unshare");
    let mut proftpd = Process::start("proftpd", unshare.args(["--mount", "sh", "-c", &script]))?;
    proftpd.wait_for("start", PATIENCE, |line| line.contains("STARTUP"))?;
    let client = "import ftplib, sys\n\
        ftp = ftplib.FTP()\n\
        ftp.connect('10.214.94.1', 2121)\n\
        try: ftp.login('root', 'wrong-password')\n\
        except ftplib.error_perm as error: sys.exit(0)\n\
        sys.exit(1)\n";
    output(network.command("python3").args(["-c", client]))?;
    proftpd.wait_for("know its client by name", PATIENCE, |line| line.contains("evil.example"))?;
    sensor.wait_for("see the failure", PATIENCE, failure_of("10.214.94.2"))?;
    proftpd.terminate(PATIENCE)?;
    Ok(())
}
