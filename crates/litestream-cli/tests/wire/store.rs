//! The stores: a real server each, with a recorder in front.

use litestream_testkit::recorder::Recorder;
use litestream_testkit::s3_server::Kind;
use litestream_testkit::{azure_server, gcs_server, oss_server, s3_server, webdav_server};

/// A place that nobody else uses, seen through a recorder.
pub(crate) struct Store {
    pub(crate) recorder: Recorder,
    /// The `replica:` mapping, without indentation.
    pub(crate) config: String,
    pub(crate) env: Vec<(&'static str, String)>,
    /// Texts that differ from run to run, and what to call them.
    pub(crate) names: Vec<(String, String)>,
    /// What lives as long as the store.
    _server: Option<gcs_server::Private>,
}

impl Store {
    fn new(recorder: Recorder, config: String) -> Self {
        let names = vec![(recorder.address(), "HOST".to_owned())];
        Self { recorder, config, env: Vec::new(), names, _server: None }
    }

    fn called(mut self, text: &str, name: &str) -> Self {
        self.names.push((text.to_owned(), name.to_owned()));
        self
    }
}

/// A store that speaks S3 and checks signatures.
pub(crate) fn s3() -> Store {
    s3_with(Kind::SeaweedFs, "")
}

/// Amazon's own, as both programs take it to be while the endpoint comes from the
/// environment: the region is asked for, bodies have checksums. With temporary
/// credentials.
pub(crate) fn s3_amazon() -> Store {
    let bucket = s3_server::fresh_bucket(Kind::Moto).unwrap();
    let (recorder, endpoint) = Recorder::in_front_of(&bucket.endpoint).unwrap();
    let config = format!("type: s3\nbucket: {}\npath: some/db\n", bucket.bucket);
    let mut store = Store::new(recorder, config).called(&bucket.bucket, "BUCKET");
    store.env = vec![
        ("AWS_ENDPOINT_URL_S3", endpoint),
        ("AWS_ACCESS_KEY_ID", bucket.access_key),
        ("AWS_SECRET_ACCESS_KEY", bucket.secret_key),
        ("AWS_SESSION_TOKEN", "c2Vzc2lvbg==".to_owned()),
    ];
    store
}

/// With a key that the client gives.
pub(crate) fn s3_customer_key() -> Store {
    s3_with(Kind::Moto, "sse-customer-key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
}

/// With a key of the provider's key service, and a storage class.
pub(crate) fn s3_kms() -> Store {
    s3_with(Kind::Moto, "sse-kms-key-id: alias/backup\nstorage-class: STANDARD_IA\n")
}

fn s3_with(kind: Kind, more: &str) -> Store {
    let mut bucket = s3_server::fresh_bucket(kind).unwrap();
    let recorder;
    (recorder, bucket.endpoint) = Recorder::in_front_of(&bucket.endpoint).unwrap();
    let config = format!("{}{more}", bucket.config("some/db"));
    Store::new(recorder, config).called(&bucket.bucket, "BUCKET")
}

pub(crate) fn abs() -> Store {
    let container = azure_server::fresh_container().unwrap();
    let (recorder, endpoint) = Recorder::in_front_of(&container.endpoint).unwrap();
    let through = azure_server::Container { endpoint, ..container };
    Store::new(recorder, through.config("some/db")).called(&through.name, "CONTAINER")
}

/// The server must know the name by which it is called.
pub(crate) fn gs() -> Store {
    let recorder = Recorder::start().unwrap();
    let server = gcs_server::Private::start(&recorder.address()).unwrap();
    recorder.forward_to(server.address()).unwrap();
    let bucket = server.fresh_bucket().unwrap();
    let mut store = Store::new(recorder, bucket.config("some/db")).called(&bucket.name, "BUCKET");
    store.env = vec![("STORAGE_EMULATOR_HOST", store.recorder.address())];
    store._server = Some(server);
    store
}

pub(crate) fn oss() -> Store {
    let place = oss_server::fresh_place().unwrap();
    let (recorder, endpoint) = Recorder::in_front_of(&place.endpoint).unwrap();
    let through = oss_server::Place { endpoint, path: format!("{}/some/db", place.path) };
    Store::new(recorder, through.config())
        .called(&format!("{}/", place.path), "")
        .called(&format!("{}%2F", place.path), "")
}

pub(crate) fn webdav() -> Store {
    let mut share = webdav_server::fresh_share(webdav_server::Kind::Rclone).unwrap();
    let recorder;
    (recorder, share.url) = Recorder::in_front_of(&share.url).unwrap();
    Store::new(recorder, share.config()).called(&share.path, "SHARE")
}
