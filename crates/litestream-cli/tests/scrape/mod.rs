//! Reads a daemon's listener: one request at a time, and metrics as values.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a listener that cannot be read fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;

pub const LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

/// Sends one request to `host:port`.
pub fn request(address: &str, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (headers, body) = text.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    let body =
        if headers.to_lowercase().contains("transfer-encoding: chunked") { joined(body) } else { body.to_owned() };
    Answer { status, headers: headers.to_owned(), body }
}

fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (len, rest) = chunks.split_once("\r\n").unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        if len == 0 {
            return body;
        }
        body.push_str(&rest[..len]);
        chunks = &rest[len + 2..];
    }
}

/// Where a daemon of ours listens, from its log.
pub fn address(daemon: &mut Daemon) -> String {
    let line = daemon.wait_for_log("serving metrics on", LIMIT).unwrap();
    let (_, url) = line.split_once("url=http://").unwrap();
    url.strip_suffix("/metrics").unwrap().to_owned()
}

/// One family of a page.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub kind: String,
    /// Labels as they stand between the braces, and values.
    pub samples: Vec<(String, f64)>,
}

impl Family {
    /// The label names that its series have.
    pub fn label_names(&self) -> BTreeSet<String> {
        let pairs = self.samples.iter().flat_map(|(labels, _)| labels.split("\",").filter(|pair| !pair.is_empty()));
        pairs.map(|pair| pair.split_once('=').unwrap().0.to_owned()).collect()
    }
}

/// A scraped page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub families: BTreeMap<String, Family>,
}

impl Page {
    pub fn of(address: &str) -> Self {
        let answer = request(address, "GET", "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::parse(&answer.body)
    }

    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                current = name.to_owned();
                let family = Family { kind: kind.to_owned(), samples: Vec::new() };
                assert!(page.families.insert(current.clone(), family).is_none(), "{name} stands twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(series.starts_with(&current), "{line} stands under {current}");
                let labels = series.split_once('{').map_or("", |(_, labels)| labels.strip_suffix('}').unwrap());
                let samples = &mut page.families.get_mut(&current).unwrap().samples;
                samples.push((labels.to_owned(), value.parse().unwrap()));
            }
        }
        page
    }

    /// What is not zero, for messages.
    pub fn non_zero(&self) -> Vec<String> {
        let families = self.families.iter();
        families
            .flat_map(|(name, family)| family.samples.iter().map(move |(labels, value)| (name, labels, value)))
            .filter(|(_, _, value)| **value != 0.0)
            .map(|(name, labels, value)| format!("{name}{{{labels}}} {value}"))
            .collect()
    }

    /// The sum of a family's series whose labels contain all of `parts`; `None`
    /// when there is none.
    pub fn sum(&self, name: &str, parts: &[&str]) -> Option<f64> {
        let samples = &self.families.get(name)?.samples;
        let fitting = samples.iter().filter(|(labels, _)| parts.iter().all(|part| labels.contains(part)));
        fitting.map(|(_, value)| *value).reduce(|a, b| a + b)
    }
}

/// Scrapes until `is_so`.
#[track_caller]
pub fn wait_for(address: &str, what: &str, is_so: impl Fn(&Page) -> bool) -> Page {
    let started = Instant::now();
    loop {
        let page = Page::of(address);
        if is_so(&page) {
            return page;
        }
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}: {:#?}", page.non_zero());
        std::thread::sleep(Duration::from_millis(50));
    }
}
