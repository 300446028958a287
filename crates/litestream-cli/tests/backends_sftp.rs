//! Real processes on SFTP servers: writes without pause, kills, restores, and the
//! original taking turns with us on one replica; by key and by password.
//!
//! Spec: backends §7.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod site;

use litestream_testkit::image::{Image, read_image};
use litestream_testkit::scenario;
use litestream_testkit::sftp_server::{Kind, PASSWORD, PASSWORD_IN_URL, Share, fresh_share};
use site::{Site, ours};

fn site(kind: Kind) -> (Site, Share) {
    let share = fresh_share(kind).unwrap();
    (Site::with_replica(share.config(&share.host).unwrap(), Vec::new()), share)
}

#[test]
fn kills_lose_nothing_on_openssh() {
    let (site, _share) = site(Kind::OpenSsh);
    site::backend::kills_lose_nothing(&site, 2);
}

#[test]
fn either_continues_on_openssh_by_key() {
    let (site, _share) = site(Kind::OpenSsh);
    site::backend::either_continues(&site);
}

#[test]
fn either_continues_on_rclone_by_password() {
    let (site, _share) = site(Kind::Rclone);
    site::backend::either_continues(&site);
}

#[test]
fn a_url_with_user_and_password_is_enough_to_replicate_and_restore() {
    let (site, share) = site(Kind::Rclone);
    let url = format!("sftp://{}:{PASSWORD_IN_URL}@{}{}", share.user, share.host, share.path);
    let connection = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&connection, 3).unwrap();
    let db = site.db();
    let output = ours().run(["replicate", "-once", db.to_str().unwrap(), &url]).unwrap().success().unwrap();
    let told = format!("{}{}", output.stdout, output.stderr);
    assert!(told.contains("sftp host key not verified") && told.contains("host-key: ssh-"), "{told}");
    assert!(!told.contains(PASSWORD) && !told.contains(PASSWORD_IN_URL), "{told}");

    let listed = ours().run(["ltx", "-level", "all", &url]).unwrap().success().unwrap();
    assert!(listed.stdout.contains("0000000000000001"), "{}", listed.stdout);
    let output = site.path("by-url.db");
    ours().restore(&url, &output).unwrap();
    read_image(&site.db()).unwrap().assert_same(&Image::of_closed_file(&output).unwrap(), "restored from a URL");
}
