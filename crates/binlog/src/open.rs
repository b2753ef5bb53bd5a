//! Where the object store is and how it is reached: a local folder or S3.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::error::BinlogError;

/// Deadline of one request to S3 when nothing else is said.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Most a connection may take to come about.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// A value that is shown nowhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for who has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "(none)" } else { "***" })
    }
}

/// Which object store, and how to get at it. Everything but the URL is for S3; what is empty is
/// taken from `QUORATE_S3_ENDPOINT`, `_REGION`, `_ACCESS_KEY`, `_SECRET_KEY` and `_ALLOW_HTTP`,
/// then from the variables the AWS tools know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStoreConfig {
    /// A path, `file:///path` or `s3://bucket/prefix`; empty = no object store.
    pub url: String,
    /// Address of an S3 server that is not Amazon's: `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// Region, as far as the server cares.
    pub region: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: Secret,
    /// Whether requests may go unencrypted.
    pub allow_http: bool,
    /// Deadline of one request.
    pub timeout: Duration,
}

impl Default for ObjectStoreConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: String::new(),
            region: String::new(),
            access_key: String::new(),
            secret_key: Secret::default(),
            allow_http: false,
            timeout: REQUEST_TIMEOUT,
        }
    }
}

impl ObjectStoreConfig {
    /// The object store at a URL; how it is reached is left to the environment.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    /// Opens the object store and answers it with the root prefix below which files lie. A missing
    /// local folder is created; what is written there is synced to disk before it counts as
    /// written. An S3 server is not spoken to yet.
    ///
    /// # Errors
    /// The URL makes no sense, the folder cannot be made, or settings for S3 are missing.
    pub fn open(&self) -> Result<(Arc<dyn ObjectStore>, Path), BinlogError> {
        match self.place()? {
            Place::Folder(folder) => {
                std::fs::create_dir_all(folder)
                    .map_err(|error| self.wrong(format!("cannot create the folder: {error}")))?;
                let store = LocalFileSystem::new_with_prefix(folder)
                    .map_err(|error| self.wrong(error.to_string()))?
                    .with_fsync(true);
                Ok((Arc::new(store), Path::default()))
            }
            Place::S3 { bucket, prefix } => {
                let filled = self.filled(|name| std::env::var(name).ok());
                let store = filled
                    .s3(bucket, AmazonS3Builder::from_env())
                    .map_err(|reason| self.wrong(reason))?;
                Ok((store, prefix))
            }
        }
    }

    /// The local folder the files lie in, if they do.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        match self.place() {
            Ok(Place::Folder(folder)) => Some(folder.into()),
            _ => None,
        }
    }

    fn place(&self) -> Result<Place<'_>, BinlogError> {
        let folder = match self.url.split_once("://") {
            None => self.url.as_str(),
            Some(("file", path)) if path.starts_with('/') => path,
            Some(("file", _)) => {
                return Err(
                    self.wrong("a file URL needs three slashes and an absolute path".into())
                );
            }
            Some(("s3", rest)) => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(self.wrong("no bucket is named; write s3://bucket/prefix".into()));
                }
                let prefix = Path::parse(prefix).map_err(|error| self.wrong(error.to_string()))?;
                return Ok(Place::S3 { bucket, prefix });
            }
            Some((scheme, _)) => {
                return Err(self.wrong(format!(
                    "scheme {scheme:?} is not supported; use a path, file:///path or \
                     s3://bucket/prefix"
                )));
            }
        };
        if folder.is_empty() {
            return Err(self.wrong("the path is empty".into()));
        }
        Ok(Place::Folder(folder))
    }

    fn wrong(&self, reason: String) -> BinlogError {
        BinlogError::Open {
            url: self.url.clone(),
            reason,
        }
    }

    /// The same with what is empty taken from our variables.
    fn filled(&self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let fill = |own: &str, name: &str| match own {
            "" => variable(name).unwrap_or_default(),
            own => own.to_owned(),
        };
        let truth = |text: String| matches!(text.trim(), "1" | "true" | "yes");
        Self {
            url: self.url.clone(),
            endpoint: fill(&self.endpoint, "QUORATE_S3_ENDPOINT"),
            region: fill(&self.region, "QUORATE_S3_REGION"),
            access_key: fill(&self.access_key, "QUORATE_S3_ACCESS_KEY"),
            secret_key: Secret(fill(self.secret_key.reveal(), "QUORATE_S3_SECRET_KEY")),
            allow_http: self.allow_http || variable("QUORATE_S3_ALLOW_HTTP").is_some_and(truth),
            timeout: self.timeout,
        }
    }

    /// An S3 client on top of what `base` has from the AWS variables.
    ///
    /// A request is tried a few times within seconds by the client itself, which matters for
    /// listings of many pages; what outlasts that is tried again by the caller until its own
    /// deadline.
    fn s3(&self, bucket: &str, base: AmazonS3Builder) -> Result<Arc<dyn ObjectStore>, String> {
        let endpoint = match self.endpoint.as_str() {
            "" => base.get_config_value(&AmazonS3ConfigKey::Endpoint),
            own => Some(own.to_owned()),
        };
        let mut builder = base.with_bucket_name(bucket);
        let mut options = ClientOptions::new()
            .with_connect_timeout(self.timeout.min(CONNECT_TIMEOUT_MAX))
            .with_timeout(self.timeout);
        if let Some(endpoint) = endpoint {
            if endpoint.starts_with("http://") && !self.allow_http {
                return Err(format!(
                    "{endpoint} is not encrypted; say https, or allow it: \
                     quorate.objectStore.allowHttp or QUORATE_S3_ALLOW_HTTP=true"
                ));
            }
            builder = builder.with_endpoint(endpoint);
        }
        options = options.with_allow_http(self.allow_http);
        if !self.region.is_empty() {
            builder = builder.with_region(&self.region);
        }
        match (self.access_key.is_empty(), self.secret_key.is_empty()) {
            (true, true) => {}
            (false, false) => {
                builder = builder
                    .with_access_key_id(&self.access_key)
                    .with_secret_access_key(self.secret_key.reveal());
            }
            _ => return Err("access key and secret key go together; one is missing".into()),
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            max_retries: 4,
            retry_timeout: self.timeout,
        };
        let store = builder
            .with_client_options(options)
            .with_retry(retry)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(store))
    }
}

enum Place<'a> {
    Folder(&'a str),
    S3 { bucket: &'a str, prefix: Path },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn on_s3() -> ObjectStoreConfig {
        ObjectStoreConfig {
            endpoint: "http://127.0.0.1:9".into(),
            access_key: "key".into(),
            secret_key: Secret::new("hunter2"),
            allow_http: true,
            ..ObjectStoreConfig::at("s3://bucket/some/prefix")
        }
    }

    #[test]
    fn odd_addresses_are_refused_with_a_hint() {
        for (url, hint) in [
            ("", "the path is empty"),
            ("file://x", "three slashes"),
            ("s3:///x", "no bucket is named"),
            ("gopher://x", "scheme \"gopher\" is not supported"),
            ("/dev/null/x", "cannot create the folder"),
        ] {
            let error = ObjectStoreConfig::at(url).open().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_bucket_opens_at_its_prefix_without_being_asked() {
        let (_, root) = on_s3().open().unwrap();
        assert_eq!(root.to_string(), "some/prefix");
        assert_eq!(on_s3().folder(), None);
        assert_eq!(
            ObjectStoreConfig::at("file:///x/y").folder().unwrap(),
            std::path::Path::new("/x/y")
        );
    }

    #[test]
    fn plain_http_and_half_a_key_pair_are_refused() {
        let plain = ObjectStoreConfig {
            allow_http: false,
            ..on_s3()
        };
        let half = ObjectStoreConfig {
            access_key: String::new(),
            ..on_s3()
        };
        for (config, hint) in [(plain, "allowHttp"), (half, "go together")] {
            let base = AmazonS3Builder::new();
            let error = config.s3("bucket", base).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn variables_fill_what_is_not_set() {
        let variables = |name: &str| match name {
            "QUORATE_S3_ENDPOINT" => Some("http://elsewhere".to_owned()),
            "QUORATE_S3_REGION" => Some("mars-1".to_owned()),
            "QUORATE_S3_ALLOW_HTTP" => Some("true".to_owned()),
            _ => None,
        };
        let filled = ObjectStoreConfig {
            allow_http: false,
            ..on_s3()
        }
        .filled(variables);
        assert_eq!(filled.endpoint, "http://127.0.0.1:9");
        assert_eq!(filled.region, "mars-1");
        assert!(filled.allow_http);
    }

    #[test]
    fn the_secret_is_shown_nowhere() {
        let shown = format!("{:?}", on_s3());
        assert!(
            !shown.contains("hunter2") && shown.contains("***"),
            "{shown}"
        );
    }
}
