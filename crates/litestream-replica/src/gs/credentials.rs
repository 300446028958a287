//! Who we are to Google: "application default credentials".
//!
//! The file of `GOOGLE_APPLICATION_CREDENTIALS`, else the one that `gcloud`
//! leaves in the home directory, else the machine's own identity. A file may hold
//! the key of a service account, a person's refresh token, a federated identity
//! of another cloud ("workload identity federation"), or one of these acting as
//! a service account.
//!
//! Spec: backends §5.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Request, header};
use serde_json::{Value, json};

use crate::clock::{Clock, SystemClock};
use crate::http::endpoint::escape;
use crate::http::identity::outside::{ISSUER_TIMEOUT, METADATA_TIMEOUT, build, form};
use crate::http::identity::{Outside, Token, TokenCache, TokenSource, jwt};
use crate::url::setup;
use crate::{ClientContext, Error, Result};

/// The token of the default credentials, fetched once and refreshed in time for
/// all replicas of a program, so that thousands of databases ask once.
#[derive(Clone, Default)]
pub struct GoogleIdentity {
    default: Arc<OnceLock<Arc<TokenCache>>>,
}

impl fmt::Debug for GoogleIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoogleIdentity")
    }
}

/// The credentials that all clients of a program share.
pub(super) fn shared(context: &ClientContext) -> Result<Arc<TokenCache>> {
    if let Some(default) = context.google.default.get() {
        return Ok(default.clone());
    }
    let default = Arc::new(TokenCache::new(DefaultCredentials { outside: Outside::new(context)? }));
    // Whoever was first, all use that one.
    Ok(context.google.default.get_or_init(|| default).clone())
}

struct DefaultCredentials {
    outside: Outside,
}

#[async_trait::async_trait]
impl TokenSource for DefaultCredentials {
    async fn fetch(&self) -> Result<Token> {
        if let Some(path) = self.outside.env("GOOGLE_APPLICATION_CREDENTIALS") {
            return self.of_file(&path).await.map_err(|e| e.context("GOOGLE_APPLICATION_CREDENTIALS"));
        }
        let directory = self.outside.env("CLOUDSDK_CONFIG").or_else(|| {
            let home = self.outside.env("HOME")?;
            Some(format!("{home}/.config/gcloud"))
        });
        if let Some(directory) = directory {
            let path = format!("{directory}/application_default_credentials.json");
            if tokio::fs::try_exists(&path).await.unwrap_or(false) {
                return self.of_file(&path).await;
            }
        }
        self.of_machine().await.map_err(|error| setup(format!("{NOT_FOUND} ({error})")))
    }
}

impl DefaultCredentials {
    async fn of_file(&self, path: &str) -> Result<Token> {
        let text = self.outside.read(path).await?;
        // The parser's own words might quote a secret.
        let file: Value = serde_json::from_str(&text).map_err(|_| setup(format!("{path} is not JSON")))?;
        let result = match text_of(&file, "type") {
            Some("impersonated_service_account") => {
                let source = file.get("source_credentials").unwrap_or(&Value::Null);
                match self.direct(path, source).await {
                    Ok(token) => self.impersonate(&file, &token).await,
                    Err(error) => Err(error),
                }
            }
            _ => self.direct(path, &file).await,
        };
        result.map_err(|e| e.context(format!("credentials of {path}")))
    }

    /// The token of a file that stands for itself.
    async fn direct(&self, path: &str, file: &Value) -> Result<Token> {
        match text_of(file, "type") {
            Some("service_account") => self.service_account(path, file).await,
            Some("authorized_user") => {
                self.refresh(file, &[("client_id", "client_id"), ("client_secret", "client_secret")]).await
            }
            Some("external_account_authorized_user") => {
                self.refresh(file, &[("client_id", "client_id"), ("client_secret", "client_secret")]).await
            }
            Some("external_account") => {
                let token = self.exchange(file).await?;
                match file.get("service_account_impersonation_url") {
                    Some(Value::String(_)) => self.impersonate(file, &token).await,
                    _ => Ok(token),
                }
            }
            Some(other) => Err(setup(format!("credentials of type \"{other}\" are not supported"))),
            None => Err(setup("the file has no \"type\": it holds no Google credentials")),
        }
    }

    /// A statement signed with the account's own key, exchanged for a token.
    async fn service_account(&self, path: &str, file: &Value) -> Result<Token> {
        let account = field(file, "client_email")?;
        let issuer = text_of(file, "token_uri").unwrap_or(TOKEN_URL);
        let key = jwt::SigningKey::from_pem(path, field(file, "private_key")?)?;
        let now = SystemClock.now().as_second();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": text_of(file, "private_key_id").unwrap_or_default()});
        let claims = json!({"iss": account, "scope": SCOPE, "aud": issuer, "iat": now, "exp": now + 3600});
        let assertion = key.sign(&header, &claims)?;
        let fields = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
        let answer = self.outside.ask(GOOGLE, form(issuer, &fields)?, ISSUER_TIMEOUT).await.map_err(|error| {
            // Google blames the statement; its dates are those of our clock.
            let dates = error.to_string().contains("timeframe");
            if dates { error.context("this machine's clock may be wrong") } else { error }
        })?;
        Token::read(GOOGLE, &answer)
    }

    /// What `gcloud auth application-default login` left.
    async fn refresh(&self, file: &Value, names: &[(&str, &str)]) -> Result<Token> {
        let issuer = text_of(file, "token_url").or(text_of(file, "token_uri")).unwrap_or(TOKEN_URL);
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", field(file, "refresh_token")?)];
        for (name, key) in names {
            fields.push((name, field(file, key)?));
        }
        Token::read(GOOGLE, &self.outside.ask(GOOGLE, form(issuer, &fields)?, ISSUER_TIMEOUT).await?)
    }

    /// The identity of another cloud, exchanged for one of Google's.
    async fn exchange(&self, file: &Value) -> Result<Token> {
        let subject = self.subject(file.get("credential_source").unwrap_or(&Value::Null)).await?;
        let scope = match file.get("service_account_impersonation_url") {
            Some(Value::String(_)) => "https://www.googleapis.com/auth/cloud-platform",
            _ => SCOPE,
        };
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", field(file, "audience")?),
            ("subject_token_type", field(file, "subject_token_type")?),
            ("subject_token", &subject),
            ("scope", scope),
        ];
        let issuer = "Google's token exchange";
        let answer = self.outside.ask(issuer, form(field(file, "token_url")?, &fields)?, ISSUER_TIMEOUT).await?;
        Token::read(issuer, &answer)
    }

    /// What the other cloud says of us: in a file, or where it is asked for.
    async fn subject(&self, source: &Value) -> Result<String> {
        let said = if let Some(path) = text_of(source, "file") {
            self.outside.read(path).await?
        } else if let Some(url) = text_of(source, "url") {
            let mut builder = Request::get(url);
            for (name, value) in source.get("headers").and_then(Value::as_object).into_iter().flatten() {
                builder = builder.header(name, value.as_str().unwrap_or_default());
            }
            let issuer = "the credential_source";
            let answer = self.outside.fetch(issuer, build(builder, Bytes::new())?, ISSUER_TIMEOUT).await?;
            String::from_utf8_lossy(&answer).into_owned()
        } else {
            return Err(setup(
                "credential_source has neither file nor url; those of AWS and of programs are not supported",
            ));
        };
        let format = source.get("format").unwrap_or(&Value::Null);
        if text_of(format, "type") != Some("json") {
            return Ok(said.trim().to_owned());
        }
        let answer: Value =
            serde_json::from_str(&said).map_err(|_| setup("credential_source gives something else than JSON"))?;
        field(&answer, field(format, "subject_token_field_name")?).map(str::to_owned)
    }

    /// A token of the service account that this one may act as.
    async fn impersonate(&self, file: &Value, token: &Token) -> Result<Token> {
        let url = field(file, "service_account_impersonation_url")?;
        let body = json!({"scope": [SCOPE], "delegates": file.get("delegates").cloned().unwrap_or(json!([]))});
        let builder = Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", token.value));
        let issuer = "service account impersonation";
        let answer = self.outside.ask(issuer, build(builder, body.to_string())?, ISSUER_TIMEOUT).await?;
        let ends = text_of(&answer, "expireTime").and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let mut token = Token::read(issuer, &answer)?;
        token.expires = ends.unwrap_or(token.expires);
        Ok(token)
    }

    /// The identity of the machine, or in Kubernetes of the workload.
    async fn of_machine(&self) -> Result<Token> {
        // By address: a proxy has no business with it.
        let host = self.outside.env("GCE_METADATA_HOST").unwrap_or_else(|| "169.254.169.254".to_owned());
        let url = format!(
            "http://{host}/computeMetadata/v1/instance/service-accounts/default/token?scopes={}",
            escape(SCOPE)
        );
        let request = build(Request::get(url).header("metadata-flavor", "Google"), Bytes::new())?;
        let issuer = "the metadata server";
        Token::read(issuer, &self.outside.ask(issuer, request, METADATA_TIMEOUT).await?)
    }
}

fn text_of<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str()
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a str, Error> {
    text_of(value, name).ok_or_else(|| setup(format!("\"{name}\" is missing")))
}

const GOOGLE: &str = "Google's token service";
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// As Google's libraries say it.
const NOT_FOUND: &str = "google: could not find default credentials. See \
                         https://cloud.google.com/docs/authentication/external/set-up-adc for more information";
