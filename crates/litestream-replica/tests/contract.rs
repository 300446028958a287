//! The one suite that every backend passes, and faults on the wire.
//!
//! Each backend gives the suite a way to open a client on a path of its own;
//! the suite knows nothing else about it. A server that cannot be started here
//! fails its tests.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics has found something"
)]

mod contract {
    #[cfg(feature = "abs")]
    mod abs;
    #[cfg(feature = "abs")]
    mod abs_faults;
    #[cfg(feature = "s3")]
    mod faults;
    #[cfg(feature = "http")]
    mod faults_tcp;
    #[cfg(feature = "http")]
    mod fetch;
    mod file;
    #[cfg(feature = "gs")]
    mod gs;
    #[cfg(feature = "gs")]
    mod gs_faults;
    #[cfg(feature = "s3")]
    mod identity;
    #[cfg(feature = "s3")]
    mod lease;
    #[cfg(feature = "nats")]
    mod nats;
    #[cfg(feature = "nats")]
    mod nats_faults;
    #[cfg(feature = "oss")]
    mod oss;
    #[cfg(all(feature = "s3", feature = "abs", feature = "gs", feature = "webdav", feature = "oss"))]
    mod proxy;
    #[cfg(feature = "s3")]
    mod s3;
    #[cfg(feature = "s3")]
    mod s3_settings;
    #[cfg(feature = "s3")]
    mod s3_tls;
    #[cfg(feature = "http")]
    mod scripted;
    #[cfg(feature = "sftp")]
    mod sftp;
    #[cfg(feature = "sftp")]
    mod sftp_faults;
    #[cfg(feature = "sftp")]
    mod sftp_keyboard;
    mod suite;
    #[cfg(feature = "webdav")]
    mod webdav;
    #[cfg(feature = "webdav")]
    mod webdav_faults;
}
