//! Who we are to Azure without a key: the first of the usual identities that
//! gives a token.
//!
//! The order is that of Microsoft's own libraries: environment, workload
//! identity, managed identity, Azure CLI, Azure Developer CLI;
//! `AZURE_TOKEN_CREDENTIALS` narrows it. An identity that is configured and
//! refused ends the search: another one might have other rights.
//!
//! Spec: backends §6.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::clock::{Clock, SystemClock};
use crate::http::endpoint::escape;
use crate::http::identity::outside::{ISSUER_TIMEOUT, METADATA_TIMEOUT, build, form};
use crate::http::identity::{Outside, Token, TokenCache, TokenSource, jwt};
use crate::url::setup;
use crate::{ClientContext, ErrorKind, Result};

/// The token of the default chain, fetched once and refreshed in time for all
/// replicas of a program, so that thousands of databases ask once.
#[derive(Clone, Default)]
pub struct AzureIdentity {
    chain: Arc<OnceLock<Arc<TokenCache>>>,
}

impl fmt::Debug for AzureIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AzureIdentity")
    }
}

/// The chain that all clients of a program share.
pub(super) fn shared(context: &ClientContext) -> Result<Arc<TokenCache>> {
    if let Some(chain) = context.azure.chain.get() {
        return Ok(chain.clone());
    }
    let chain = Arc::new(TokenCache::new(Chain { outside: Outside::new(context)? }));
    // Whoever was first, all use that one.
    Ok(context.azure.chain.get_or_init(|| chain).clone())
}

struct Chain {
    outside: Outside,
}

/// What one identity says.
enum Said {
    Token(Token),
    /// It does not exist here, for this reason.
    Absent(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Environment,
    Workload,
    Managed,
    Cli,
    DeveloperCli,
}

impl Link {
    /// As Microsoft's libraries and `AZURE_TOKEN_CREDENTIALS` call it.
    fn name(self) -> &'static str {
        match self {
            Self::Environment => "EnvironmentCredential",
            Self::Workload => "WorkloadIdentityCredential",
            Self::Managed => "ManagedIdentityCredential",
            Self::Cli => "AzureCLICredential",
            Self::DeveloperCli => "AzureDeveloperCLICredential",
        }
    }

    /// Which to try, and in which order.
    fn chosen(narrowed: Option<&str>) -> Result<Vec<Self>> {
        let deployed = [Self::Environment, Self::Workload, Self::Managed];
        let all = deployed.into_iter().chain([Self::Cli, Self::DeveloperCli]);
        let Some(text) = narrowed.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(all.collect()) };
        match text.to_ascii_lowercase().as_str() {
            "prod" => Ok(deployed.to_vec()),
            "dev" => Ok(vec![Self::Cli, Self::DeveloperCli]),
            name => match all.clone().find(|link| link.name().eq_ignore_ascii_case(name)) {
                Some(link) => Ok(vec![link]),
                None => {
                    Err(setup(format!("AZURE_TOKEN_CREDENTIALS: \"{text}\" is neither dev, prod nor a credential")))
                }
            },
        }
    }
}

#[async_trait::async_trait]
impl TokenSource for Chain {
    async fn fetch(&self) -> Result<Token> {
        let mut tried = String::from("DefaultAzureCredential: failed to acquire a token.\nAttempted credentials:");
        for link in Link::chosen(self.outside.env("AZURE_TOKEN_CREDENTIALS").as_deref())? {
            let said = match link {
                Link::Environment => self.environment().await,
                Link::Workload => self.workload().await,
                Link::Managed => self.managed().await,
                Link::Cli => self.cli().await,
                Link::DeveloperCli => self.developer_cli().await,
            };
            match said.map_err(|e| e.context(link.name()))? {
                Said::Token(token) => {
                    tracing::debug!(source = link.name(), "found azure credentials");
                    return Ok(token);
                }
                Said::Absent(reason) => tried.push_str(&format!("\n\t{}: {reason}", link.name())),
            }
        }
        Err(setup(format!("{tried}\nset account-key or sas-token, or give this machine an identity")))
    }
}

impl Chain {
    fn token(issuer: &str, answer: &Value) -> Result<Said> {
        Token::read(issuer, answer).map(Said::Token)
    }

    /// A service principal with a secret or a certificate.
    async fn environment(&self) -> Result<Said> {
        let env = |name: &str| self.outside.env(name);
        let (Some(tenant), Some(client)) = (env("AZURE_TENANT_ID"), env("AZURE_CLIENT_ID")) else {
            return Ok(Said::Absent("AZURE_TENANT_ID and AZURE_CLIENT_ID are not set".to_owned()));
        };
        let url = self.authority(&tenant);
        if let Some(secret) = env("AZURE_CLIENT_SECRET") {
            return self.principal(&url, &client, &[("client_secret", secret.as_str())]).await;
        }
        let Some(path) = env("AZURE_CLIENT_CERTIFICATE_PATH") else {
            let reason = "neither AZURE_CLIENT_SECRET nor AZURE_CLIENT_CERTIFICATE_PATH is set";
            return Ok(Said::Absent(reason.to_owned()));
        };
        let pem = self.outside.read(&path).await?;
        let header = json!({"alg": "RS256", "typ": "JWT", "x5t": jwt::thumbprint(&path, &pem)?});
        let now = SystemClock.now().as_second();
        let claims = json!({
            "aud": url, "iss": client, "sub": client, "jti": format!("{:032x}", fastrand::u128(..)),
            "nbf": now - 60, "exp": now + 600,
        });
        let assertion = jwt::SigningKey::from_pem(&path, &pem)?.sign(&header, &claims)?;
        self.principal(&url, &client, &asserted(&assertion)).await
    }

    /// A token that Kubernetes keeps in a file, exchanged for ours.
    async fn workload(&self) -> Result<Said> {
        let env = |name: &str| self.outside.env(name);
        let variables = (env("AZURE_TENANT_ID"), env("AZURE_CLIENT_ID"), env("AZURE_FEDERATED_TOKEN_FILE"));
        let (Some(tenant), Some(client), Some(file)) = variables else {
            let reason = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE are not all set";
            return Ok(Said::Absent(reason.to_owned()));
        };
        let assertion = self.outside.read(&file).await?;
        self.principal(&self.authority(&tenant), &client, &asserted(assertion.trim())).await
    }

    fn authority(&self, tenant: &str) -> String {
        let host = self.outside.env("AZURE_AUTHORITY_HOST");
        let host = host.as_deref().unwrap_or("https://login.microsoftonline.com").trim_end_matches('/');
        format!("{host}/{}/oauth2/v2.0/token", escape(tenant))
    }

    async fn principal(&self, url: &str, client: &str, proof: &[(&str, &str)]) -> Result<Said> {
        let mut fields = vec![("grant_type", "client_credentials"), ("client_id", client), ("scope", SCOPE)];
        fields.extend(proof);
        let issuer = "Microsoft Entra ID";
        Self::token(issuer, &self.outside.ask(issuer, form(url, &fields)?, ISSUER_TIMEOUT).await?)
    }

    /// What the machine itself is: App Service and Container Apps say where to
    /// ask, virtual machines have a fixed address.
    async fn managed(&self) -> Result<Said> {
        let env = |name: &str| self.outside.env(name);
        let client = env("AZURE_CLIENT_ID").map(|id| format!("&client_id={}", escape(&id))).unwrap_or_default();
        let resource = escape(RESOURCE);
        let (issuer, builder, is_certain) = match (env("IDENTITY_ENDPOINT"), env("IDENTITY_HEADER")) {
            (Some(endpoint), Some(header)) => {
                let url = format!("{endpoint}?api-version=2019-08-01&resource={resource}{client}");
                ("App Service", Request::get(url).header("x-identity-header", header), true)
            }
            _ => {
                let host = env("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
                let path = "metadata/identity/oauth2/token?api-version=2018-02-01";
                let url = format!("{}/{path}&resource={resource}{client}", host.trim_end_matches('/'));
                ("the instance metadata service", Request::get(url).header("metadata", "true"), false)
            }
        };
        match self.outside.ask(issuer, build(builder, Bytes::new())?, METADATA_TIMEOUT).await {
            Ok(answer) => Self::token(issuer, &answer),
            // Not every machine is in Azure, nor has an identity there.
            Err(error) if !is_certain => Ok(Said::Absent(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Whoever is logged in on this machine.
    async fn cli(&self) -> Result<Said> {
        self.command("az", &["account", "get-access-token", "-o", "json", "--resource", RESOURCE], None).await
    }

    async fn developer_cli(&self) -> Result<Said> {
        self.command("azd", &["auth", "token", "-o", "json", "--no-prompt", "--scope", SCOPE], Some("token")).await
    }

    /// A command's token. `field` names it where it is not `accessToken`.
    async fn command(&self, program: &str, arguments: &[&str], field: Option<&str>) -> Result<Said> {
        let printed = match self.outside.run(program, arguments).await {
            Ok(Some(printed)) => printed,
            Ok(None) => return Ok(Said::Absent(format!("{program} is not installed"))),
            // Mostly: nobody is logged in.
            Err(error) if error.kind() == ErrorKind::Setup => return Ok(Said::Absent(error.to_string())),
            Err(error) => return Err(error),
        };
        let mut answer: Value = serde_json::from_slice(&printed)
            .map_err(|_| setup(format!("{program} printed something else than JSON")))?;
        if let Some(value) = field.and_then(|field| answer.get(field)).cloned() {
            let ends =
                answer.get("expiresOn").and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
            answer = json!({"access_token": value, "expires_on": ends.map(|ends| ends.as_second())});
        }
        Self::token(program, &answer)
    }
}

fn asserted(assertion: &str) -> [(&str, &str); 2] {
    [
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ]
}

const RESOURCE: &str = "https://storage.azure.com/";
const SCOPE: &str = "https://storage.azure.com/.default";
const METADATA_HOST: &str = "http://169.254.169.254";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_can_be_narrowed() {
        let names = |text: Option<&str>| -> Vec<&str> {
            Link::chosen(text).unwrap().into_iter().map(|link| link.name().trim_end_matches("Credential")).collect()
        };
        assert_eq!(names(None).len(), 5);
        assert_eq!(names(Some("")).len(), 5);
        assert_eq!(names(Some("prod")), ["Environment", "WorkloadIdentity", "ManagedIdentity"]);
        assert_eq!(names(Some("DEV")), ["AzureCLI", "AzureDeveloperCLI"]);
        assert_eq!(names(Some("azureclicredential")), ["AzureCLI"]);
        assert!(Link::chosen(Some("other")).is_err());
    }
}
