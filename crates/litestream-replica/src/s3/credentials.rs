//! Who we are to AWS: fixed keys, or the first link of the usual chain that
//! holds.
//!
//! This is the one place that gives the signing library an environment, files,
//! commands and HTTP. Nothing here is ever logged.
//!
//! Spec: backends §4.2.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqsign_aws_v4::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProcessCredentialProvider, ProfileCredentialProvider, RequestSigner,
    SSOCredentialProvider, StaticCredentialProvider,
};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, FileRead, HttpSend, ProvideCredential, ProvideCredentialDyn, Signer,
    StaticEnv,
};

use super::assumed_role::AssumedRole;
use crate::http::HttpClient;
use crate::http::echo::Secrets;
use crate::{ClientContext, Error, ErrorKind, Result};

/// Signs requests for one region.
pub(super) type AwsSigner = Signer<Credential>;

/// The credentials of the default chain, fetched once and refreshed in time for
/// all replicas of a program, so that thousands of databases ask once.
#[derive(Clone, Default)]
pub struct AwsIdentity {
    chain: Arc<OnceLock<AwsSigner>>,
}

impl fmt::Debug for AwsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwsIdentity")
    }
}

/// A signer for `region`, with fixed `keys` or the shared chain.
pub(super) fn signer(context: &ClientContext, keys: Option<(String, String)>, region: &str) -> Result<AwsSigner> {
    let request = RequestSigner::new("s3", region);
    if let Some((id, secret)) = keys {
        return Ok(Signer::new(Context::new(), StaticCredentialProvider::new(&id, &secret), request));
    }
    if let Some(chain) = context.aws.chain.get() {
        return Ok(chain.clone().with_request_signer(request));
    }
    let chain = Signer::new(outside(context)?, Chain::default_order(), RequestSigner::new("s3", region));
    // Whoever was first, all use that one.
    Ok(context.aws.chain.get_or_init(|| chain).clone().with_request_signer(request))
}

/// Turns a failure to sign into advice.
pub(super) fn signing_error(error: &reqsign_core::Error) -> Error {
    let kind = if error.is_retryable() { ErrorKind::Transient } else { ErrorKind::Setup };
    Error::new(kind, format!("cannot sign request: {error}"))
}

/// The providers in the order of Amazon's own libraries.
#[derive(Debug)]
struct Chain {
    links: Vec<(&'static str, Box<dyn ProvideCredentialDyn<Credential = Credential>>)>,
}

impl Chain {
    fn default_order() -> Self {
        Self {
            links: vec![
                ("environment", Box::new(EnvCredentialProvider::new())),
                ("web identity", Box::new(AssumeRoleWithWebIdentityCredentialProvider::new())),
                // Before the keys of the same profile, which may be those it is asked for with.
                (ASSUMED_ROLE, Box::new(AssumedRole)),
                ("profile", Box::new(ProfileCredentialProvider::default())),
                ("single sign-on", Box::new(SSOCredentialProvider::default())),
                ("credential process", Box::new(ProcessCredentialProvider::default())),
                ("container", Box::new(ECSCredentialProvider::default())),
                ("instance role", Box::new(IMDSv2CredentialProvider::default())),
            ],
        }
    }
}

impl ProvideCredential for Chain {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> reqsign_core::Result<Option<Credential>> {
        let mut tried = Vec::new();
        for (name, link) in &self.links {
            match link.provide_credential_dyn(context).await {
                Ok(Some(credential)) => {
                    tracing::debug!(source = name, "found aws credentials");
                    return Ok(Some(credential));
                }
                Ok(None) => tried.push(format!("{name}: none")),
                // What comes next might have other rights than the role that was asked for.
                Err(error) if *name == ASSUMED_ROLE => return Err(error),
                Err(error) => tried.push(format!("{name}: {error}")),
            }
        }
        let tried = tried.join("; ");
        Err(reqsign_core::Error::credential_invalid(format!(
            "no AWS credentials found, set access-key-id and secret-access-key or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY ({tried})"
        )))
    }
}

fn outside(context: &ClientContext) -> Result<Context> {
    let http = context.http.client(false)?;
    let mut envs: HashMap<String, String> =
        VARIABLES.iter().filter_map(|&name| Some((name.to_owned(), context.env_var(name)?))).collect();
    for (name, own) in
        [("AWS_ACCESS_KEY_ID", "LITESTREAM_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "LITESTREAM_SECRET_ACCESS_KEY")]
    {
        if let (false, Some(value)) = (envs.contains_key(name), context.env_var(own)) {
            envs.insert(name.to_owned(), value);
        }
    }
    let home_dir = context.env_var("HOME").map(PathBuf::from);
    Ok(Context::new()
        .with_env(StaticEnv { home_dir, envs })
        .with_file_read(Files)
        .with_command_execute(Commands)
        .with_http_send(Http(http)))
}

#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        tokio::fs::read(path).await.map_err(|e| reqsign_core::Error::config_invalid(format!("read {path}: {e}")))
    }
}

#[derive(Debug)]
struct Commands;

impl CommandExecute for Commands {
    async fn command_execute<'a>(
        &'a self,
        program: &'a str,
        arguments: &'a [&'a str],
    ) -> reqsign_core::Result<CommandOutput> {
        let output = tokio::process::Command::new(program).args(arguments).kill_on_drop(true).output().await;
        let output = output.map_err(|e| reqsign_core::Error::config_invalid(format!("run {program}: {e}")))?;
        Ok(CommandOutput { status: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr: output.stderr })
    }
}

struct Http(HttpClient);

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        // Machines outside the cloud have nobody at the metadata address.
        let near =
            request.uri().host().is_some_and(|host| host.starts_with("169.254.") || host.starts_with("[fd00:ec2"));
        let limit = if near { METADATA_TIMEOUT } else { TOKEN_TIMEOUT };
        let secrets = Secrets::of_form(&request);
        let exchange = async {
            let (head, body) = self.0.send(request).await?.into_parts();
            let mut body = body.collect(TOKEN_LIMIT).await?;
            if !head.status.is_success() {
                // The library quotes it whole.
                body = secrets.hide(&body).into();
            }
            Ok::<_, Error>(http::Response::from_parts(head, body))
        };
        let answer = match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("no answer within {}s", limit.as_secs())),
        };
        answer.map_err(|e| reqsign_core::Error::unexpected(e).set_retryable(true))
    }
}

const ASSUMED_ROLE: &str = "assumed role";
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_LIMIT: usize = 1 << 20;

/// Every variable the chain may look at.
const VARIABLES: [&str; 23] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_SSO_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "HOME",
];
