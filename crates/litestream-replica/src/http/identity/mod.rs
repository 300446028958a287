//! Access tokens: who issues them, and how long one is kept.
//!
//! The clouds differ in where a program's identity comes from; what they hand
//! out is always a bearer token with an end. One [`TokenCache`] serves all
//! replicas of a program, so that thousands of databases ask once. Nothing here
//! is ever logged, and errors repeat what an issuer says, not what it was sent.

pub(crate) mod jwt;
pub(crate) mod outside;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Mutex;

pub(crate) use outside::Outside;

use crate::clock::{Clock, SystemClock};
use crate::url::setup;
use crate::{ErrorKind, Result};

/// A bearer token and its end.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) value: String,
    /// Unknown: ten minutes from now, see [`Token::read`].
    pub(crate) expires: Timestamp,
}

impl Token {
    /// Reads an issuer's answer: `access_token` (or `accessToken`) with
    /// `expires_in` seconds, or with a moment as Unix seconds in `expires_on`.
    pub(crate) fn read(issuer: &str, answer: &Value) -> Result<Self> {
        let number = |name: &str| {
            let value = answer.get(name)?;
            value.as_i64().or_else(|| value.as_str()?.parse().ok())
        };
        let value = ["access_token", "accessToken"].iter().find_map(|name| answer.get(name)?.as_str());
        let value = value.filter(|value| !value.is_empty()).ok_or_else(|| setup(format!("{issuer} sent no token")))?;
        let at = number("expires_on").and_then(|seconds| Timestamp::from_second(seconds).ok());
        let lasts = SignedDuration::from_secs(number("expires_in").unwrap_or(DEFAULT_LIFE_SECONDS).clamp(0, 1 << 30));
        Ok(Self { value: value.to_owned(), expires: at.unwrap_or_else(|| SystemClock.now() + lasts) })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Where tokens come from.
#[async_trait::async_trait]
pub(crate) trait TokenSource: Send + Sync {
    /// A token of now.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) when asking again may help;
    /// [`Setup`](ErrorKind::Setup) with the reason otherwise.
    async fn fetch(&self) -> Result<Token>;
}

/// The token of one source, fetched when it is needed and again before it ends.
pub(crate) struct TokenCache {
    source: Box<dyn TokenSource>,
    current: Mutex<Option<Token>>,
}

impl TokenCache {
    pub(crate) fn new(source: impl TokenSource + 'static) -> Self {
        Self { source: Box::new(source), current: Mutex::new(None) }
    }

    /// A token that is good for some minutes. Callers that come together wait
    /// for one request.
    pub(crate) async fn token(&self) -> Result<String> {
        let mut current = self.current.lock().await;
        let left = current.as_ref().map(|token| token.expires.duration_since(SystemClock.now()));
        match (&*current, left) {
            (Some(token), Some(left)) if left > REFRESH_BEFORE => Ok(token.value.clone()),
            (known, left) => match self.source.fetch().await {
                Ok(token) => Ok(current.insert(token).value.clone()),
                // The issuer has a bad moment, but what it gave still counts.
                Err(error) if error.kind() == ErrorKind::Transient && left > Some(LAST_USE_BEFORE) => {
                    known.as_ref().map(|token| token.value.clone()).ok_or(error)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Forgets the token, which a store has just refused.
    pub(crate) fn forget(&self) {
        // Somebody who holds the lock is about to replace it.
        if let Ok(mut current) = self.current.try_lock() {
            *current = None;
        }
    }
}

/// Ahead of the end, so that a slow upload does not outlive its token.
const REFRESH_BEFORE: SignedDuration = SignedDuration::from_mins(5);
const LAST_USE_BEFORE: SignedDuration = SignedDuration::from_secs(20);
const DEFAULT_LIFE_SECONDS: i64 = 600;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Error;

    /// Hands out tokens that last `seconds`, and after the first one fails.
    struct Issuer {
        seconds: i64,
        asked: Arc<AtomicU32>,
    }

    #[async_trait::async_trait]
    impl TokenSource for Issuer {
        async fn fetch(&self) -> Result<Token> {
            match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => Token::read("issuer", &serde_json::json!({"access_token": "t0", "expires_in": self.seconds})),
                _ => Err(Error::new(ErrorKind::Transient, "out of order")),
            }
        }
    }

    #[tokio::test]
    async fn token_is_kept_until_shortly_before_its_end() {
        for (seconds, asked_for_two, second_works) in [(3600, 1, true), (200, 2, true), (10, 2, false)] {
            let asked = Arc::new(AtomicU32::new(0));
            let cache = TokenCache::new(Issuer { seconds, asked: asked.clone() });
            assert_eq!(cache.token().await.unwrap(), "t0");
            assert_eq!(cache.token().await.is_ok(), second_works, "{seconds} s");
            assert_eq!(asked.load(Ordering::SeqCst), asked_for_two, "{seconds} s");
        }
    }

    #[tokio::test]
    async fn refused_token_is_not_used_again() {
        let asked = Arc::new(AtomicU32::new(0));
        let cache = TokenCache::new(Issuer { seconds: 3600, asked: asked.clone() });
        cache.token().await.unwrap();
        cache.forget();
        assert!(cache.token().await.is_err());
    }

    #[test]
    fn answers_of_all_issuers_are_read() {
        for (answer, second) in [
            (serde_json::json!({"access_token": "t", "expires_on": "4102444800"}), 4_102_444_800),
            (serde_json::json!({"accessToken": "t", "expires_on": 4_102_444_800_i64}), 4_102_444_800),
        ] {
            let token = Token::read("issuer", &answer).unwrap();
            assert_eq!((token.value.as_str(), token.expires.as_second()), ("t", second));
            assert!(!format!("{token:?}").contains("\"t\""));
        }
        let none = Token::read("issuer", &serde_json::json!({"access_token": ""})).unwrap_err();
        assert_eq!(none.to_string(), "issuer sent no token");
    }
}
