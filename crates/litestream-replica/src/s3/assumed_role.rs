//! A role that a profile of Amazon's shared files says to assume.
//!
//! ```text
//! [profile backup]
//! role_arn       = arn:aws:iam::123456789012:role/backup
//! source_profile = default          (or credential_source = Environment, …)
//! ```
//!
//! The source may itself assume a role. What its credentials are is found by the
//! signing library's providers; here is only which of them to ask, in what order.
//!
//! Spec: backends §4.2. AWS SDKs and Tools Reference Guide, "Assume role credential
//! provider".

use std::collections::HashMap;

use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider, IMDSv2CredentialProvider,
    ProcessCredentialProvider, ProfileCredentialProvider, RequestSigner,
};
use reqsign_core::{Context, Error, ProvideCredential, Result, Signer};

/// The role of the profile that `AWS_PROFILE` names; `None` where it names none.
#[derive(Debug)]
pub(super) struct AssumedRole;

impl ProvideCredential for AssumedRole {
    type Credential = Credential;

    async fn provide_credential(&self, context: &Context) -> Result<Option<Credential>> {
        let profiles = Profiles::read(context).await;
        let chosen = context.env_var("AWS_PROFILE").filter(|name| !name.is_empty());
        let chosen = chosen.unwrap_or_else(|| "default".to_owned());
        let (roles, source) = match profiles.path(&chosen)? {
            (roles, _) if roles.is_empty() => return Ok(None),
            path => path,
        };
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| context.env_var(name));
        let region =
            region.or_else(|| profiles.get(&chosen, "region").map(str::to_owned)).filter(|text| !text.is_empty());
        let request = || RequestSigner::new("sts", region.as_deref().unwrap_or("us-east-1"));
        let mut signer = match source {
            Source::Profile(name) if profiles.get(name, "aws_access_key_id").is_none() => {
                Signer::new(context.clone(), ProcessCredentialProvider::new().with_profile(name), request())
            }
            Source::Profile(name) => {
                Signer::new(context.clone(), ProfileCredentialProvider::new().with_profile(name), request())
            }
            Source::Environment => Signer::new(context.clone(), EnvCredentialProvider::new(), request()),
            Source::Instance => Signer::new(context.clone(), IMDSv2CredentialProvider::default(), request()),
            Source::Container => Signer::new(context.clone(), ECSCredentialProvider::default(), request()),
        };
        let mut last = None;
        for profile in roles.into_iter().rev() {
            if let Some(provider) = last.take() {
                signer = Signer::new(context.clone(), provider, request());
            }
            last = Some(provider(&profiles, profile, region.as_deref(), signer.clone())?);
        }
        match last {
            Some(provider) => provider.provide_credential(context).await,
            None => Ok(None),
        }
    }
}

/// Asks for the role of one profile, signed by those who may have it.
fn provider(
    profiles: &Profiles,
    profile: &str,
    region: Option<&str>,
    signer: Signer<Credential>,
) -> Result<AssumeRoleCredentialProvider> {
    let get = |key| profiles.get(profile, key);
    if get("mfa_serial").is_some() {
        let message = format!("profile {profile} wants a code of a person (mfa_serial), which a daemon cannot give");
        return Err(Error::config_invalid(message));
    }
    let mut provider = AssumeRoleCredentialProvider::new(get("role_arn").unwrap_or_default().to_owned(), signer)
        .with_role_session_name(get("role_session_name").unwrap_or("litestream").to_owned());
    if let Some(id) = get("external_id") {
        provider = provider.with_external_id(id.to_owned());
    }
    if let Some(seconds) = get("duration_seconds").and_then(|text| text.parse().ok()) {
        provider = provider.with_duration_seconds(seconds);
    }
    if let Some(region) = region {
        provider = provider.with_region(region.to_owned()).with_regional_sts_endpoint();
    }
    Ok(provider)
}

/// Whose credentials the innermost role is asked for with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source<'a> {
    Profile(&'a str),
    Environment,
    Instance,
    Container,
}

/// The two shared files, as far as roles are concerned.
#[derive(Debug, Default)]
struct Profiles(HashMap<String, HashMap<String, String>>);

impl Profiles {
    async fn read(context: &Context) -> Self {
        let mut profiles = Self::default();
        for (variable, usual) in
            [("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]
        {
            let named = context.env_var(variable).filter(|path| !path.is_empty()).unwrap_or_else(|| usual.to_owned());
            let Some(path) = context.expand_home_dir(&named) else { continue };
            // A file that is not there has no roles; whoever needs it says so.
            if let Ok(text) = context.file_read_as_string(&path).await {
                profiles.add(&text);
            }
        }
        profiles
    }

    /// What is read later goes before, as the credentials file does.
    fn add(&mut self, text: &str) {
        let mut profile = None;
        for line in text.lines().map(str::trim_end).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                let name = name.trim();
                profile = Some(name.strip_prefix("profile ").map_or(name, str::trim).to_owned());
            } else if let (Some(profile), Some((key, value))) = (&profile, line.split_once('='))
                // Indented lines belong to the key above.
                && !line.starts_with([' ', '\t'])
            {
                let keys = self.0.entry(profile.clone()).or_default();
                keys.insert(key.trim().to_lowercase(), value.trim().to_owned());
            }
        }
    }

    fn get(&self, profile: &str, key: &str) -> Option<&str> {
        self.0.get(profile)?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The profiles whose roles to assume, outermost first, and who asks for the
    /// innermost.
    fn path<'a>(&'a self, chosen: &'a str) -> Result<(Vec<&'a str>, Source<'a>)> {
        let (mut roles, mut profile) = (Vec::new(), chosen);
        while self.get(profile, "role_arn").is_some() {
            // With a token of its own it is another provider's.
            if roles.is_empty() && self.get(profile, "web_identity_token_file").is_some() {
                break;
            }
            roles.push(profile);
            match (self.get(profile, "source_profile"), self.get(profile, "credential_source")) {
                // Its own static keys.
                (Some(source), None) if source == profile => break,
                (Some(source), None) if roles.len() < MOST_ROLES && self.0.contains_key(source) => profile = source,
                (Some(source), None) if roles.len() < MOST_ROLES => {
                    let message = format!("profile {profile} names source_profile {source}, which does not exist");
                    return Err(Error::config_invalid(message));
                }
                (None, Some("Environment")) => return Ok((roles, Source::Environment)),
                (None, Some("Ec2InstanceMetadata")) => return Ok((roles, Source::Instance)),
                (None, Some("EcsContainer")) => return Ok((roles, Source::Container)),
                (Some(_), None) => {
                    return Err(Error::config_invalid(format!("the roles of profile {chosen} go round in a circle")));
                }
                _ => {
                    let message = format!(
                        "profile {profile} has a role_arn and needs either source_profile or credential_source \
                         (Environment, Ec2InstanceMetadata, EcsContainer)"
                    );
                    return Err(Error::config_invalid(message));
                }
            }
        }
        Ok((roles, Source::Profile(profile)))
    }
}

/// More than anybody chains, fewer than a circle has.
const MOST_ROLES: usize = 5;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use reqsign_core::{FileRead, HttpSend, StaticEnv};

    use super::*;

    #[derive(Debug)]
    struct OneFile(&'static str);

    impl FileRead for OneFile {
        async fn file_read(&self, path: &str) -> Result<Vec<u8>> {
            if path == "/config" { Ok(self.0.as_bytes().to_vec()) } else { Err(Error::config_invalid("no such file")) }
        }
    }

    /// Amazon's token service: gives out keys that are numbered.
    #[derive(Clone, Debug, Default)]
    struct TokenService(Arc<Mutex<Vec<String>>>);

    impl HttpSend for TokenService {
        async fn http_send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
            let mut asked = self.0.lock().unwrap();
            let authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
            let body = String::from_utf8_lossy(request.body()).into_owned();
            asked.push(format!("{} {body} {authorization}", request.uri()));
            let number = asked.len();
            let answer = format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE00000000{number}</AccessKeyId>\
                 <SecretAccessKey>s</SecretAccessKey><SessionToken>t{number}</SessionToken>\
                 <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            );
            Ok(http::Response::new(answer.into()))
        }
    }

    async fn credential(file: &'static str, variables: &[(&str, &str)]) -> (Result<Option<Credential>>, Vec<String>) {
        let service = TokenService::default();
        let mut envs: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        envs.insert("AWS_CONFIG_FILE".to_owned(), "/config".to_owned());
        envs.insert("AWS_SHARED_CREDENTIALS_FILE".to_owned(), "/none".to_owned());
        let context = Context::new()
            .with_env(StaticEnv { home_dir: None, envs })
            .with_file_read(OneFile(file))
            .with_http_send(service.clone());
        let credential = AssumedRole.provide_credential(&context).await;
        let asked = service.0.lock().unwrap().clone();
        (credential, asked)
    }

    const FILE: &str = "
[default]
aws_access_key_id = plain
aws_secret_access_key = s
[profile inner]
role_arn = arn:aws:iam::123456789012:role/inner
source_profile = default
external_id = ext
[profile outer]
role_arn = arn:aws:iam::123456789012:role/outer
source_profile = inner
region = eu-west-1
[profile of-environment]
role_arn = arn:aws:iam::123456789012:role/env
credential_source = Environment
[profile circle]
role_arn = arn:aws:iam::123456789012:role/a
source_profile = elcric
[profile elcric]
role_arn = arn:aws:iam::123456789012:role/b
source_profile = circle
[profile lost]
role_arn = arn:aws:iam::123456789012:role/c
source_profile = nobody
[profile bare]
role_arn = arn:aws:iam::123456789012:role/d
[profile person]
role_arn = arn:aws:iam::123456789012:role/e
source_profile = default
mfa_serial = arn:aws:iam::123456789012:mfa/me
";

    #[tokio::test]
    async fn a_role_is_asked_for_with_its_source_and_a_chain_from_the_inside() {
        let (found, asked) = credential(FILE, &[("AWS_PROFILE", "inner")]).await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.access_key_id.as_str(), found.session_token.as_deref()), ("ASIAROLE000000001", Some("t1")));
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(asked[0].contains("role%2Finner") && asked[0].contains("ExternalId=ext"), "{asked:?}");
        assert!(asked[0].contains("Credential=plain/"), "{asked:?}");

        let (found, asked) = credential(FILE, &[("AWS_PROFILE", "outer")]).await;
        assert_eq!(found.unwrap().unwrap().access_key_id, "ASIAROLE000000002");
        assert!(asked[0].contains("role%2Finner") && asked[1].contains("role%2Fouter"), "{asked:?}");
        assert!(
            asked[1].contains("Credential=ASIAROLE000000001/") && asked[1].contains("/eu-west-1/sts/"),
            "{asked:?}"
        );
        assert!(asked[1].starts_with("https://sts.eu-west-1.amazonaws.com/"), "{asked:?}");
    }

    #[tokio::test]
    async fn the_environment_may_be_the_source() {
        let keys = [("AWS_PROFILE", "of-environment"), ("AWS_ACCESS_KEY_ID", "env"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let (found, asked) = credential(FILE, &keys).await;
        assert_eq!(found.unwrap().unwrap().access_key_id, "ASIAROLE000000001");
        assert!(asked[0].contains("Credential=env/"), "{asked:?}");
    }

    #[tokio::test]
    async fn profiles_without_a_role_are_left_to_others_and_wrong_ones_are_explained() {
        let (none, asked) = credential(FILE, &[]).await;
        assert!(none.unwrap().is_none() && asked.is_empty());
        for (profile, part) in [
            ("circle", "go round in a circle"),
            ("lost", "names source_profile nobody, which does not exist"),
            ("bare", "needs either source_profile or credential_source"),
            ("person", "mfa_serial"),
        ] {
            let (refused, asked) = credential(FILE, &[("AWS_PROFILE", profile)]).await;
            let message = refused.err().unwrap().to_string();
            assert!(message.contains(part) && asked.is_empty(), "{profile}: {message}");
        }
    }
}
