//! What the simulator says on the wire, against what the facts say of RouterOS.

mod client;

use client::{Client, PATIENCE, V4, V6, start};
use routeros_sim::{Family, Outcome, Router};
use rstest::rstest;

#[tokio::test]
async fn a_wrong_password_is_a_trap_and_another_try_may_succeed() {
    let router = Router::builder().start().await.unwrap();
    let mut client = Client::connect(router.address()).await;
    for words in [
        &["/login", "=name=atalaya", "=password=wrong"][..],
        &["/login", "=name=nobody", "=password=secret"],
        &["/login", "=name=atalaya", "=password="],
        &["/login"],
    ] {
        assert_eq!(client.ask(words).await, ["!trap =message=invalid user name or password (6)", "!done"]);
    }
    assert_eq!(client.ask(&["/login", "=name=atalaya", "=password=secret"]).await, ["!done"]);
    assert_eq!((router.counts().logins, router.counts().login_failures), (1, 4));
}

#[tokio::test]
async fn a_command_before_login_ends_the_connection() {
    let router = Router::builder().start().await.unwrap();
    let mut client = Client::connect(router.address()).await;
    assert_eq!(client.print(V4, &[".tag=1"]).await, ["!fatal not logged in"]);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn quit_ends_the_connection_with_its_reason() {
    let (_router, mut client) = start(Router::builder()).await;
    assert_eq!(client.ask(&["/quit"]).await, ["!fatal session terminated on request"]);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn before_6_43_login_gives_a_challenge_and_takes_no_plain_password() {
    let router = Router::builder().version("6.42.12").start().await.unwrap();
    let mut client = Client::connect(router.address()).await;
    let challenge = client.ask(&["/login", "=name=atalaya", "=password=secret"]).await;
    assert!(challenge[0].starts_with("!done =ret=") && challenge[0].len() == "!done =ret=".len() + 32);
    assert_eq!(client.print(V4, &[]).await, ["!fatal not logged in"]);
}

#[tokio::test]
async fn the_tag_comes_right_after_the_reply_word() {
    let (_router, mut client) = start(Router::builder()).await;
    assert_eq!(client.add(V4, "192.0.2.1", &[".tag=a b"]).await, ["!done .tag=a b =ret=*1"]);
    assert_eq!(
        client.add(V4, "192.0.2.1", &[".tag=2"]).await,
        ["!trap .tag=2 =message=failure: already have such entry", "!done .tag=2"]
    );
    let rows = client.print(V4, &["=.proplist=address", ".tag=3"]).await;
    assert_eq!(rows, ["!re .tag=3 =address=192.0.2.1", "!done .tag=3"]);
}

#[tokio::test]
async fn an_entry_is_printed_as_routeros_prints_it() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "198.51.100.7/24", &["=timeout=00:30:00", "=comment=a=b", "=disabled=yes"]).await;
    client.add(V4, "198.51.100.7/32", &["=comment"]).await;
    router.clock().advance(std::time::Duration::from_millis(4500));
    let rows = client.print(V4, &[]).await;
    let (before, after) = rows[0].split_once(" =creation-time=").unwrap();
    assert_eq!(before, "!re =.id=*1 =list=spammer =address=198.51.100.0/24");
    let (created, after) = after.split_at("2025-09-05 11:17:32".len());
    assert!(created.parse::<jiff::civil::DateTime>().is_ok(), "{created}");
    assert_eq!(after, " =timeout=29m55s =dynamic=true =disabled=true =comment=a=b");
    assert!(rows[1].ends_with(" =dynamic=false =disabled=false"), "{}", rows[1]);
    assert!(rows[1].starts_with("!re =.id=*2 =list=spammer =address=198.51.100.7 "), "{}", rows[1]);
}

#[rstest]
#[case("7.24", &["!empty .tag=1", "!done .tag=1"])]
#[case("7.18", &["!empty .tag=1", "!done .tag=1"])]
#[case("7.17.2", &["!done .tag=1"])]
#[case("6.49.10", &["!done .tag=1"])]
#[tokio::test]
async fn nothing_found_is_said_as_the_version_says_it(#[case] version: &str, #[case] answer: &[&str]) {
    let (_router, mut client) = start(Router::builder().version(version)).await;
    assert_eq!(client.print(V4, &["?list=none", ".tag=1"]).await, answer);
}

#[rstest]
#[case(&[], "3")]
#[case(&["?list=spammer"], "2")]
#[case(&["?=list=spammer"], "2")]
#[case(&["?address=2001:db8::1/128"], "0")]
#[case(&["?comment"], "1")]
#[case(&["?-comment"], "2")]
#[case(&["?list=other", "?comment=x", "?#|"], "2")]
#[case(&["?list=other", "?#!"], "2")]
#[case(&["?dynamic=yes"], "1")]
#[case(&["?>timeout=10m"], "1")]
#[tokio::test]
async fn count_only_answers_in_ret(#[case] query: &[&str], #[case] count: &str) {
    let (_router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &["=comment=x"]).await;
    client.add(V4, "192.0.2.2", &["=timeout=1h"]).await;
    client.ask(&["/ip/firewall/address-list/add", "=list=other", "=address=192.0.2.1"]).await;
    let words: Vec<&str> = ["=count-only="].iter().chain(query).copied().collect();
    assert_eq!(client.print(V4, &words).await, [format!("!done =ret={count}")]);
}

#[rstest]
#[case(&["/no/such/print"], "=category=0 =message=no such command prefix")]
#[case(&["/ip/firewall/address-list/destroy"], "=category=0 =message=no such command")]
#[case(&["/ip/firewall/address-list/remove", "=.id=*99"], "=category=0 =message=no such item")]
#[case(&["/ip/firewall/address-list/set", "=.id=*1,*99", "=comment=x"], "=category=0 =message=no such item")]
#[case(&["/ip/firewall/address-list/remove"], "=category=0 =message=missing =.id=")]
#[case(&["/ip/firewall/address-list/add", "=address=192.0.2.9"], "=category=0 =message=missing value(s) of argument(s) list")]
#[case(&["/ip/firewall/address-list/add", "=list=l", "=address=::ffff:1.2.3.4"], "=message=failure: ::ffff:1.2.3.4 is not a valid dns name")]
#[case(&["/ip/firewall/address-list/add", "=list=l", "=address=192.0.2.9", "=timeout=365d"], "=category=1 =message=value of timeout is out of range (00:00:00 .. 35w3d13:13:56)")]
#[case(&["/ip/firewall/address-list/add", "=list=l", "=address=192.0.2.9", "=timeout=soon"], "=category=1 =message=invalid time value for argument timeout")]
#[case(&["/ip/firewall/address-list/add", "=list=l", "=address=192.0.2.9", "=colour=red"], "=category=0 =message=unknown parameter")]
#[case(&["/ip/firewall/address-list/print", "?#&"], "=category=5 =message=invalid query operation")]
#[tokio::test]
async fn refusals_have_the_real_texts_and_change_nothing(#[case] words: &[&str], #[case] trap: &str) {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &[]).await;
    assert_eq!(client.ask(words).await, [format!("!trap {trap}"), "!done".to_owned()]);
    let entries = router.entries(Family::V4);
    assert_eq!((entries.len(), entries[0].comment.as_str()), (1, ""));
}

#[tokio::test]
async fn garbage_becomes_a_dns_name_without_an_error() {
    let (router, mut client) = start(Router::builder()).await;
    assert_eq!(client.add(V4, "203.0.113.1-254", &[]).await, ["!done =ret=*1"]);
    assert_eq!(router.entries(Family::V4)[0].address, "203.0.113.1-254");
}

#[tokio::test]
async fn the_tables_are_separate_and_ipv6_wraps_a_year_to_nothing() {
    let (router, mut client) = start(Router::builder()).await;
    assert_eq!(client.add(V6, "2001:DB8::1", &["=timeout=1h"]).await, ["!done =ret=*1"]);
    assert_eq!(client.add(V6, "::ffff:1.2.3.4", &["=timeout=365d"]).await, ["!done =ret=*2"]);
    assert_eq!(client.add(V4, "1.2.3.4", &[]).await, ["!done =ret=*1"]);
    let rows = client.print(V6, &["=.proplist=address,timeout"]).await;
    assert!(rows[0].starts_with("!re =address=2001:db8::1/128 =timeout="), "{}", rows[0]);
    assert_eq!(rows[1], "!re =address=::ffff:1.2.3.4/128 =timeout=0s");
    assert_eq!(router.entries(Family::V4).len(), 1);
}

#[tokio::test]
async fn set_and_remove_take_many_ids() {
    let (router, mut client) = start(Router::builder()).await;
    for host in 1..=3 {
        client.add(V4, &format!("192.0.2.{host}"), &["=timeout=1m"]).await;
    }
    let set = ["/ip/firewall/address-list/set", "=.id=*1,*3", "=timeout=2h", "=disabled=true"];
    assert_eq!(client.ask(&set).await, ["!done"]);
    assert_eq!(client.ask(&["/ip/firewall/address-list/remove", "=numbers=*1,*2"]).await, ["!done"]);
    let entries = router.entries(Family::V4);
    assert_eq!((entries.len(), entries[0].id.as_str(), entries[0].disabled), (1, "*3", true));
    assert!(entries[0].timeout_left.is_some_and(|left| left.as_secs() > 7000));
}

#[rstest]
#[case(&["write", "api"], "print", false)]
#[case(&["read", "api"], "print", true)]
#[case(&["read", "api"], "add", false)]
#[case(&["write", "api"], "add", true)]
#[tokio::test]
async fn each_policy_grants_its_part(#[case] policies: &[&str], #[case] verb: &str, #[case] granted: bool) {
    let (_router, mut client) = start(Router::builder().policies(policies)).await;
    let answer =
        if verb == "add" { client.add(V4, "192.0.2.1", &[]).await } else { client.print(V4, &[]).await };
    assert_eq!(answer[0] != "!trap =message=not enough permissions (9)", granted, "{answer:?}");
}

#[tokio::test]
async fn a_user_without_the_api_policy_cannot_log_in() {
    let router = Router::builder().another_user("eve", "x", &["read"]).start().await.unwrap();
    let mut client = Client::connect(router.address()).await;
    let answer = client.ask(&["/login", "=name=eve", "=password=x"]).await;
    assert_eq!(answer[0], "!trap =message=not enough permissions (9)");
}

#[tokio::test]
async fn identity_and_resource_are_told() {
    let (router, mut client) = start(Router::builder().identity("edge").version("7.20.1")).await;
    assert_eq!(client.ask(&["/system/identity/print"]).await, ["!re =name=edge", "!done"]);
    router.clock().advance(std::time::Duration::from_hours(1));
    router.set_cpu_load(Some(97));
    let resource = ["/system/resource/print", "=.proplist=uptime,version,cpu-load,board-name"];
    let answer = client.ask(&resource).await;
    assert!(answer[0].starts_with("!re =uptime=1h"), "{answer:?}");
    assert!(
        answer[0].ends_with(" =version=7.20.1 (stable) =cpu-load=97 =board-name=RB5009UG+S+"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn words_may_come_byte_by_byte_and_empty_sentences_are_ignored() {
    let (_router, mut client) = start(Router::builder()).await;
    let mut bytes = vec![0, 0];
    let command = ["/ip/firewall/address-list/add", "=list=spammer", "=address=192.0.2.1"];
    routeros_sim::sentence::Sentence::new(command).encode(&mut bytes);
    for byte in bytes {
        client.send_bytes(&[byte]).await;
    }
    assert_eq!(client.answer().await, ["!done =ret=*1"]);
}

#[tokio::test]
async fn bytes_that_are_no_sentence_end_the_connection_and_nothing_else() {
    let (router, mut client) = start(Router::builder()).await;
    let mut vandal = Client::connect(router.address()).await;
    vandal.send_bytes(&[0xFF; 100]).await;
    assert!(vandal.is_closed().await);
    let mut glutton = Client::connect(router.address()).await;
    glutton.send_bytes(&[0xF0, 0x7F, 0xFF, 0xFF, 0xFF]).await;
    assert!(glutton.is_closed().await);
    assert_eq!(client.add(V4, "192.0.2.1", &[]).await, ["!done =ret=*1"]);
}

#[tokio::test]
async fn a_connection_past_max_sessions_is_closed_at_once() {
    let (router, _client) = start(Router::builder().max_sessions(1)).await;
    let mut second = Client::connect(router.address()).await;
    assert!(second.is_closed().await);
    assert_eq!(router.counts().sessions_refused, 1);
}

#[tokio::test]
async fn cancel_interrupts_a_running_command_and_frees_the_router() {
    let (router, mut client) = start(Router::builder()).await;
    router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "", None);
    router.set_costs(routeros_sim::Costs {
        scan_per_entry: std::time::Duration::from_hours(1),
        ..routeros_sim::Costs::default()
    });
    let print = ["/ip/firewall/address-list/print", ".tag=X"];
    client.send_all(&[&print, &["/cancel", "=tag=X", ".tag=Y"]]).await;
    assert_eq!(client.next().await.as_deref(), Some("!trap .tag=X =category=2 =message=interrupted"));
    assert_eq!(client.next().await.as_deref(), Some("!done .tag=Y"));
    assert_eq!(client.next().await.as_deref(), Some("!done .tag=X"));
    assert_eq!(client.add(V4, "192.0.2.2", &[".tag=Z"]).await, ["!done .tag=Z =ret=*2"]);
    assert_eq!(router.counts().cancelled, 1);
}

#[tokio::test]
async fn the_journal_keeps_commands_and_hides_passwords() {
    let (router, mut client) = start(Router::builder()).await;
    client.add(V4, "192.0.2.1", &[]).await;
    let journal = router.journal();
    assert_eq!(journal[0].words, ["/login", "=name=atalaya", "=password=***"]);
    assert_eq!(journal[1].outcome, Outcome::Done { ret: Some("*1".to_owned()) });
}

#[tokio::test]
async fn many_tagged_adds_at_once_are_each_answered_once_and_in_order() {
    const COUNT: usize = 20_000;
    let (router, mut client) = start(Router::builder()).await;
    let commands: Vec<[String; 4]> = (0..COUNT)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(0x0A00_0000 + u32::try_from(number).unwrap());
            let path = "/ip/firewall/address-list/add".to_owned();
            [path, "=list=spammer".to_owned(), format!("=address={address}"), format!(".tag={number}")]
        })
        .collect();
    let mut bytes = Vec::new();
    for command in &commands {
        routeros_sim::sentence::Sentence::new(command).encode(&mut bytes);
    }
    client.send_bytes(&bytes).await;
    for number in 0..COUNT {
        let answer = client.next().await.unwrap();
        assert_eq!(answer, format!("!done .tag={number} =ret=*{:X}", number + 1));
    }
    router.wait_for(|entries| entries.len() == COUNT, PATIENCE).await.unwrap();
}
