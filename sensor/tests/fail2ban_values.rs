//! Values of a jail in the forms in which people write them, beside what fail2ban's own code makes of each: what runs
//! is Debian's package, unpacked by `cargo xtask setup`.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod package;

use std::process::Command;

use atalaya_sensor::fail2ban::{Imported, import};
use atalaya_sensor::jail::settings::JailConfig;
use atalaya_wire::{BanTime, Seconds};
use package::package;

/// What a piece of fail2ban's code says for each of the words, as JSON; null where it refuses one.
fn theirs(code: &str, words: &[&str]) -> Vec<serde_json::Value> {
    let program = format!(
        "import json, sys, warnings\nwarnings.simplefilter('ignore')\n{code}\n\
         def said(word):\n  try: return json.dumps(ask(word))\n  except Exception: return 'null'\n\
         for word in json.loads(sys.argv[1]): print(said(word))\n"
    );
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", package("bookworm").join("usr/lib/python3/dist-packages"));
    let output = python.args(["-c", &program]).arg(serde_json::to_string(words).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), words.len());
    answers
}

/// A configuration of one jail for each value, `j0`, `j1`…, in which the option has that value; behind a tab stands
/// another option.
fn imported(option: &str, values: &[&str]) -> Imported {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        let value = value.replace('%', "%%").replace('\n', "\n  ").replace('\t', "\n");
        text.push_str(&format!(
            "[j{index}]\nenabled = true\nfilter = plain\nlogpath = /dev/null\n{option} = {value}\n"
        ));
    }
    std::fs::write(folder.path().join("jail.conf"), text).unwrap();
    std::fs::create_dir(folder.path().join("filter.d")).unwrap();
    let filter = "[Definition]\nfailregex = ^bad from <ADDR>$\n";
    std::fs::write(folder.path().join("filter.d/plain.conf"), filter).unwrap();
    import(folder.path()).unwrap()
}

fn jail(imported: &Imported, index: usize) -> Option<&JailConfig> {
    let name = format!("j{index}");
    let found = imported.jails.iter().find(|jail| jail.policy.name.as_str() == name);
    assert_eq!(found.is_none(), imported.left_out.iter().any(|(jail, _)| *jail == name), "{name}");
    found
}

/// Each is either the same or, where fail2ban refuses it or bans for no time at all, left out.
#[test]
fn times_in_all_forms_are_the_seconds_that_fail2ban_reads() {
    const FORMS: [&str; 72] = [
        "600",
        "10m",
        "1d12h",
        "1h 30m",
        "10*60",
        "2*1h+30",
        "1.5h",
        ".5h",
        "1mo",
        "1 month",
        "6 months",
        "1y",
        "1 year",
        "2 weeks",
        "2 week",
        "1 w",
        "1ww",
        "1we",
        "1 wee",
        "1 day 2 hours",
        "1day2hours",
        "0d 1h 30m",
        "+1h",
        "+ 600",
        "1hour+30min",
        "1year-6mo",
        "1d - 1h",
        "600 # ten minutes",
        "600# ten minutes",
        "10m # 10 minutes",
        "# nothing",
        "-1",
        "- 1",
        "-1 # for ever",
        "-1s",
        "-1d",
        "0",
        "0s",
        "00",
        "0600",
        "1 2",
        "1 2 3",
        "1d 2 3m",
        "3 600",
        "1H 30M",
        "1 DAY",
        "1Mo",
        "1yr",
        "5mins",
        "30 secs",
        "1h,30m",
        "1h, 30m",
        "(1h+30m)*2",
        "1h/2",
        "7//2",
        "1h%7m",
        "2**3",
        "2**3h",
        "2 * 3 h",
        "-(-600)",
        "5.",
        "5. m",
        "1..2",
        "soon",
        "1e3",
        "10x",
        "1h\n30m",
        "1h\n+1h",
        "1 hou",
        "90 sec",
        "1 mon 1 mo",
        "1d 1w 1mo 1y",
    ];
    let code =
        "from fail2ban.server.mytime import MyTime\nask = lambda word: float(MyTime.str2seconds(word))";
    let theirs = theirs(code, &FORMS);
    let ours = imported("bantime", &FORMS);
    let mut wrong = Vec::new();
    for (index, (form, theirs)) in FORMS.iter().zip(&theirs).enumerate() {
        let expected = match theirs.as_f64() {
            Some(-1.0) => Some(BanTime::Permanent),
            Some(seconds) if seconds >= 1.0 => Some(BanTime::For(Seconds(seconds as u64))),
            _ => None,
        };
        let found = jail(&ours, index).map(|jail| jail.policy.bantime);
        if found != expected {
            wrong.push(format!("{form:?}: {found:?}, and fail2ban reads {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(theirs.iter().filter(|answer| answer.is_null()).count() > 10, "{theirs:?}");
}

/// fail2ban's server takes Python's whole numbers, and bans at the first failure where none are to be enough.
#[test]
fn maxretry_is_any_whole_number_that_fail2ban_reads() {
    const FORMS: [&str; 16] = [
        "1",
        "5",
        " 7 ",
        "1000",
        "1001",
        "50000",
        "2147483648",
        "99999999999",
        "0",
        "-1",
        "+5",
        "05",
        "5.0",
        "five",
        "5 # five",
        "5m",
    ];
    let theirs = theirs("ask = int", &FORMS);
    let ours = imported("maxretry", &FORMS);
    for (index, (form, theirs)) in FORMS.iter().zip(&theirs).enumerate() {
        let expected = theirs.as_i64().map(|number| number.clamp(1, u32::MAX.into()) as u32);
        assert_eq!(jail(&ours, index).map(|jail| jail.policy.maxretry), expected, "{form:?}");
    }
}

/// There it is an expression of Python too; the first ban is longer by it.
#[test]
fn bantime_factor_is_the_number_that_fail2ban_computes() {
    const FORMS: [&str; 12] =
        ["1", "24", "0.5", "1/2", "2 * 3", "(1+2)*2", "2**3", "24 # a day", "five", "1h", "1 2", "1/0"];
    let theirs = theirs("ask = lambda word: float(eval(word))", &FORMS);
    let lines = FORMS.map(|form| format!("{form}\tbantime.increment = true"));
    let ours = imported("bantime.factor", &lines.each_ref().map(String::as_str));
    for (index, (form, theirs)) in FORMS.iter().zip(&theirs).enumerate() {
        let first = jail(&ours, index).map(|jail| jail.policy.escalation.as_ref().unwrap().thousandths[0]);
        let theirs = theirs.as_f64().map(|factor| (factor * 1000.0) as u64);
        assert_eq!(first, theirs, "{form:?}");
    }
}

/// Whoever is spared there is spared here, and no one else.
#[test]
fn ignoreip_spares_whom_fail2ban_spares() {
    const LISTS: [&str; 23] = [
        "10.0.0.0/255.0.0.0",
        "10.1.2.3/255.255.0.0",
        "10.0.0.0/255.255.255.255",
        "2001:db8::/ffff:ffff::",
        "[2001:db8::1]",
        "127.0.0.1/8 ::1",
        "10.0.0.5/24",
        "10.0.0.1, 192.0.2.0/24,203.0.113.7",
        "10.0.0.1,203.0.113.7",
        "10.0.0.1\n203.0.113.7",
        "10.0.0.1 # the office",
        "10.0.0.1 # 203.0.113.7 too",
        "10.0.0.1 #203.0.113.7",
        "# 10.0.0.0/8",
        "10.0.0.1 # 203.0.113.7/255.255.255.0",
        "::ffff:10.1.2.3",
        "2001:db8::/32",
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/0.0.0.0",
        "192.0.2.0/255.255.255.128",
        "10.0.0.1/32",
        "2001:db8::1/128 10.9.9.9",
    ];
    const ADDRESSES: [&str; 10] = [
        "10.0.0.1",
        "10.0.0.5",
        "10.1.2.3",
        "10.200.0.1",
        "127.0.0.9",
        "192.0.2.7",
        "192.0.2.200",
        "203.0.113.7",
        "2001:db8::1",
        "2001:db8:1::9",
    ];
    let code = format!(
        "from fail2ban.helpers import splitwords\nfrom fail2ban.server.ipdns import IPAddr\naddresses = {}\n\
         def ask(list):\n  networks = [n for n in map(IPAddr, splitwords(list)) if n.isValid]\n  \
         return [any(IPAddr(a).isInNet(n) for n in networks) for a in addresses]",
        serde_json::to_string(&ADDRESSES).unwrap()
    );
    let theirs = theirs(&code, &LISTS);
    let ours = imported("ignoreip", &LISTS);
    for (index, (list, theirs)) in LISTS.iter().zip(&theirs).enumerate() {
        let jail = jail(&ours, index).unwrap_or_else(|| panic!("{list:?}: {:?}", ours.left_out));
        let spared: Vec<bool> =
            ADDRESSES.iter().map(|address| jail.policy.ignore.contains(address.parse().unwrap())).collect();
        assert_eq!(serde_json::json!(spared), *theirs, "{list:?}");
        assert_eq!(jail.ignore.names, Vec::<String>::new(), "{list:?}");
    }
}

/// What cannot be understood could be whom its administrator spared.
#[test]
fn a_network_that_is_none_leaves_the_jail_out() {
    let lists = ["10.0.0.0/255.0.255.0", "10.0.0.1-9", "10.0.0.0/", "10.0.0.0/33", "192.0.2.*"];
    let ours = imported("ignoreip", &lists);
    for (index, list) in lists.iter().enumerate() {
        assert!(jail(&ours, index).is_none(), "{list}");
        assert!(ours.left_out[index].1.contains(list), "{:?}", ours.left_out[index]);
    }
}

/// What `import` writes is read back the same, also where a sliding window would be too large.
#[test]
fn large_numbers_and_masks_are_written_as_our_own_configuration_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let jail = "[big]\nenabled = true\nfilter = plain\nlogpath = /dev/null\nmaxretry = 5000\n\
                findtime = 2 weeks\nbantime = 1h # an hour\nignoreip = 10.0.0.0/255.0.0.0 # office\n";
    std::fs::write(folder.path().join("jail.conf"), jail).unwrap();
    std::fs::create_dir(folder.path().join("filter.d")).unwrap();
    let filter = "[Definition]\nfailregex = ^bad from <ADDR>$\n";
    std::fs::write(folder.path().join("filter.d/plain.conf"), filter).unwrap();
    let text = atalaya_sensor::fail2ban::as_toml(folder.path()).unwrap();
    let read = atalaya_sensor::config::Config::parse(&text, folder.path()).unwrap();
    let policy = &read.jails[0].policy;
    assert_eq!((policy.maxretry, policy.findtime), (5000, Seconds(1_209_600)));
    assert_eq!(Vec::<String>::from(policy.ignore.clone()), ["10.0.0.0/8"]);
    let sliding = text.replace("decay = true", "decay = false");
    let error = atalaya_sensor::config::Config::parse(&sliding, folder.path()).unwrap_err().to_string();
    assert!(error.contains("maxretry is 5000; expected 1 to 1000, or more with `decay = true`"), "{error}");
}

#[test]
fn the_backend_names_the_journal_that_fail2ban_would_open() {
    let backends = [
        "systemd",
        "SystemD",
        "systemd[journalflags=1]",
        "systemd[journalflags=\"0\"]",
        "systemd[journalpath=/var/log/journal/remote]",
        "systemd[journalpath='/srv/j', journalflags=7]",
        "systemd[journalfiles=\"/dev/null, /dev/zero\"]",
        "systemd[journalfiles=\"/dev/null\", journalflags=4]",
        "systemd[namespace=web]",
        "systemd[namespace=web][journalflags=0]",
        "systemd[journalflags=all]",
    ];
    // The module that reads journals need not be there: what it would be given is asked.
    let code = "import types\n\
        module = types.ModuleType('systemd')\n\
        module.journal = types.ModuleType('systemd.journal')\n\
        module.journal.__version__ = '235'\n\
        sys.modules.update({'systemd': module, 'systemd.journal': module.journal})\n\
        from fail2ban.helpers import extractOptions\n\
        from fail2ban.server.filtersystemd import FilterSystemd\n\
        def ask(word):\n  \
          name, options = extractOptions(word)\n  \
          assert name.lower() == 'systemd'\n  \
          args = FilterSystemd._getJournalArgs(options)\n  \
          return {'path': args.get('path'), 'files': sorted(args.get('files', [])), 'flags': args.get('flags', 0), 'namespace': args.get('namespace')}\n";
    let imported = imported("backend", &backends);
    for ((index, backend), theirs) in backends.iter().enumerate().zip(theirs(code, &backends)) {
        let ours = jail(&imported, index).map(|jail| {
            let place = &jail.source.journal().unwrap().place;
            serde_json::json!({
                "path": place.folder, "files": place.files, "flags": place.flags(), "namespace": place.namespace.text(),
            })
        });
        assert_eq!(ours.unwrap_or_default(), theirs, "{backend}");
    }
}

#[test]
fn a_journal_that_is_taken_over_as_toml_is_the_same_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (index, options) in [
        "",
        "[journalflags=0]",
        "[journalpath=/srv/j, namespace=\"*\", journalflags=4]",
        "[journalfiles=\"/a/*.journal /b\", namespace=+web]",
    ]
    .iter()
    .enumerate()
    {
        text.push_str(&format!("[j{index}]\nenabled = true\nfilter = plain\nbackend = systemd{options}\n"));
    }
    std::fs::write(folder.path().join("jail.conf"), text).unwrap();
    std::fs::create_dir(folder.path().join("filter.d")).unwrap();
    let filter = "[Definition]\nfailregex = ^bad from <ADDR>$\njournalmatch = _COMM=plain\n";
    std::fs::write(folder.path().join("filter.d/plain.conf"), filter).unwrap();
    let imported = import(folder.path()).unwrap();
    let toml = atalaya_sensor::fail2ban::as_toml(folder.path()).unwrap();
    let config = atalaya_sensor::config::Config::parse(&toml, folder.path()).unwrap();
    assert_eq!((imported.jails.len(), config.jails.len()), (4, 4), "{:?}", imported.left_out);
    for (theirs, ours) in imported.jails.iter().zip(&config.jails) {
        assert_eq!(theirs.source.journal(), ours.source.journal(), "{toml}");
    }
}
