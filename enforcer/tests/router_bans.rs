//! Bans on a simulated router: they appear, are extended, lapse, are lifted, and nobody else's entries
//! are touched.

mod stage;

use std::time::Duration;

use atalaya_enforcer::desired::Desired;
use atalaya_enforcer::router::address_list::LARGEST_TIMEOUT;
use routeros_sim::{Family, Router};
use stage::{MARK, Stage};

#[tokio::test]
async fn a_new_ban_appears_with_what_is_left_of_it_and_our_comment() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.has_left("192.0.2.1", 1800).await;
    let entry = stage.entry("192.0.2.1");
    assert_eq!((entry.list.as_str(), entry.comment.as_str()), ("spammer", "atalaya: sshd at web-1"));
    assert!(entry.dynamic && !entry.disabled);
}

#[tokio::test]
async fn networks_and_ipv6_addresses_go_to_their_tables() {
    let stage = Stage::new().await;
    for prefix in ["2001:DB8::1", "2001:db8:1::7/64", "198.51.100.7/24", "::ffff:192.0.2.1"] {
        stage.ban(prefix, 1800);
    }
    stage.holds(&["2001:db8::1/128", "2001:db8:1::/64", "198.51.100.0/24", "192.0.2.1"]).await;
    assert_eq!(stage.router.entries(Family::V6).len(), 2);
    stage.unban("2001:db8::1");
    stage.holds(&["2001:db8:1::/64", "198.51.100.0/24", "192.0.2.1"]).await;
}

#[tokio::test]
async fn a_ban_set_twice_is_one_entry_and_no_error() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.comes_to_rest().await;
    let changes = stage.changes();
    stage.ban("192.0.2.1", 1801);
    stage.comes_to_rest().await;
    assert_eq!(stage.changes() - changes, 2, "more was sent than the test's own ban and unban");
    assert_eq!(stage.worker.status().last_error, None);
}

#[tokio::test]
async fn an_extended_ban_gets_a_new_timeout_in_place() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 600);
    stage.has_left("192.0.2.1", 600).await;
    let id = stage.entry("192.0.2.1").id;
    stage.ban("192.0.2.1", 3600);
    stage.has_left("192.0.2.1", 3600).await;
    assert_eq!(stage.entry("192.0.2.1").id, id);
}

#[tokio::test]
async fn a_lapsing_ban_sends_nothing_and_can_be_set_anew() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.comes_to_rest().await;
    let changes = stage.changes();
    stage.advance(1801);
    assert!(stage.entries().is_empty());
    stage.unban("192.0.2.1");
    stage.comes_to_rest().await;
    assert_eq!(stage.changes() - changes, 2, "more was sent than the test's own ban and unban");
    stage.ban("192.0.2.1", 1800);
    stage.has_left("192.0.2.1", 1800).await;
}

#[tokio::test]
async fn a_lifted_ban_is_removed() {
    let stage = Stage::new().await;
    stage.ban("192.0.2.1", 1800);
    stage.holds(&["192.0.2.1"]).await;
    stage.unban("192.0.2.1");
    stage.holds(&[]).await;
}

#[tokio::test]
async fn someone_elses_entry_covers_a_ban_and_is_neither_changed_nor_removed() {
    let router = Router::builder().start().await.unwrap();
    router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "by hand", None);
    let stage = Stage::raise(router, Desired::new(), |_| {});
    stage.is(atalaya_enforcer::router::State::Connected).await;
    let before = stage.entry("192.0.2.1");
    stage.ban("192.0.2.1", 1800);
    stage.comes_to_rest().await;
    stage.unban("192.0.2.1");
    stage.comes_to_rest().await;
    assert_eq!(stage.entry("192.0.2.1"), before);
    let status = stage.worker.status();
    assert_eq!((status.foreign, status.counts.duplicates, status.last_error), (1, 0, None));
}

#[tokio::test]
async fn a_duplicate_of_someone_elses_new_entry_is_no_error_and_touches_nothing() {
    let stage = Stage::new().await;
    stage.router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "by hand", None);
    let before = stage.entry("192.0.2.1");
    stage.ban("192.0.2.1", 1800);
    stage.shows(|status| status.counts.duplicates == 1 && status.foreign == 1).await;
    stage.unban("192.0.2.1");
    stage.comes_to_rest().await;
    assert_eq!(stage.entry("192.0.2.1"), before);
    assert_eq!(stage.worker.status().last_error, None);
}

#[tokio::test]
async fn a_ban_takes_over_when_someone_elses_entry_lapses() {
    let stage = Stage::new().await;
    let half = Some(Duration::from_mins(15));
    stage.router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "by hand", half);
    stage.ban("192.0.2.1", 1800);
    stage.shows(|status| status.foreign == 1 && status.queued == 0).await;
    stage.advance(903);
    stage.has_left("192.0.2.1", 897).await;
    assert!(stage.entry("192.0.2.1").comment.starts_with(MARK));
}

#[tokio::test]
async fn entries_of_another_list_or_without_the_whole_mark_are_not_ours() {
    let router = Router::builder().start().await.unwrap();
    router.insert_foreign(Family::V4, "other", "192.0.2.1", "atalaya: sshd", None);
    router.insert_foreign(Family::V4, "spammer", "192.0.2.2", "atalayas: sshd", None);
    router.insert_foreign(Family::V4, "spammer", "192.0.2.3-192.0.2.9", "a range", None);
    router.insert_foreign(Family::V4, "spammer", "example.org", "a name", None);
    router.insert_foreign(Family::V4, "spammer", "192.0.2.10", "atalaya: not wanted any more", None);
    let stage = Stage::raise(router, Desired::new(), |_| {});
    stage.holds(&["192.0.2.1", "192.0.2.2", "192.0.2.3-192.0.2.9", "example.org"]).await;
}

#[tokio::test]
async fn an_entry_whose_id_was_never_told_can_be_lifted() {
    let stage = Stage::new().await;
    // As another enforcer with our mark would, after we read the list.
    stage.router.insert_foreign(Family::V4, "spammer", "192.0.2.1", "atalaya: sshd", None);
    stage.ban_forever("192.0.2.1");
    stage.unban("192.0.2.1");
    stage.ban("192.0.2.2", 1800);
    stage.holds(&["192.0.2.1", "192.0.2.2"]).await;
    stage.ban_forever("192.0.2.1");
    stage.shows(|status| status.counts.duplicates > 0).await;
    stage.unban("192.0.2.1");
    stage.holds(&["192.0.2.2"]).await;
}

#[tokio::test]
async fn a_permanent_ban_has_the_largest_timeout_and_is_renewed_at_its_half() {
    let stage = Stage::with(Router::builder(), |config| {
        config.reconcile_every = Duration::from_millis(50);
    })
    .await;
    stage.ban_forever("192.0.2.1");
    stage.ban_forever("2001:db8::1");
    stage.has_left("192.0.2.1", LARGEST_TIMEOUT).await;
    stage.has_left("2001:db8::1/128", LARGEST_TIMEOUT).await;
    let prints = stage.worker.status().counts.prints;
    stage.advance(LARGEST_TIMEOUT / 2 - 100);
    stage.shows(|status| status.counts.prints >= prints + 6).await;
    assert_eq!(stage.worker.status().counts.sets, 0, "renewed before its half");
    stage.advance(200);
    stage.has_left("192.0.2.1", LARGEST_TIMEOUT).await;
    stage.has_left("2001:db8::1/128", LARGEST_TIMEOUT).await;
}

#[tokio::test]
async fn a_ban_beyond_the_largest_timeout_is_clamped() {
    let stage = Stage::new().await;
    for prefix in ["192.0.2.1", "2001:db8::1"] {
        stage.ban(prefix, 3 * 365 * 86_400);
    }
    stage.has_left("192.0.2.1", LARGEST_TIMEOUT).await;
    stage.has_left("2001:db8::1/128", LARGEST_TIMEOUT).await;
}

#[tokio::test]
async fn ten_thousand_bans_at_once_are_all_there_and_none_twice() {
    let stage = Stage::new().await;
    for number in 0..10_000_u32 {
        let address = std::net::Ipv4Addr::from(0x0A00_0000 + number);
        stage.ban(&address.to_string(), 1800);
    }
    stage.shows(|status| status.counts.adds == 10_000 && status.in_flight == 0).await;
    let mut addresses: Vec<_> = stage.entries().into_iter().map(|entry| entry.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 10_000);
    assert_eq!((stage.router.counts().adds, stage.router.counts().duplicates), (10_000, 0));
}
