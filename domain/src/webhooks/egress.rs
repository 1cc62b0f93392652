//! The way out for webhooks. Their addresses come from strangers, so each is judged twice: as text when it is registered
//! and before each try, and as the addresses its name stands for at the moment it is dialled.
//!
//! The judging is on the address that is really dialled: the resolver given to the client refuses a name if *any* of its
//! addresses is not public, and the client connects only to what the resolver returned. That closes changing answers (DNS
//! rebinding). Hosts that are literal addresses never reach a resolver, so they are checked on their own. Redirects are not
//! followed, proxies are not asked, nothing is remembered between requests.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header,
};
use url::{Host, Url};

use super::{RETRY_AFTER_MAX, breaker, sign};
use crate::ids::EndpointId;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// An answer is read to its end only so that the connection can be used again; not for longer than this,
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// and not for more than this.
const READ_MAX: usize = 64 * 1024;
const URL_MAX: usize = 2000;
const PORTS: [u16; 2] = [443, 8443];

/// Networks that are nobody's on the public internet: ours, private, reserved, or a way around to one of those.
const BLOCKED_V4: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
];
/// `::/96` holds the unspecified, the loopback and the v4-compatible addresses. Only 2000::/3 is given out at all; what is
/// listed within it is reserved or wraps a v4 address.
const BLOCKED_V6: [&str; 14] = [
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "::ffff:0:0:0/96",
];

static BLOCKED: LazyLock<(Vec<Ipv4Net>, Vec<Ipv6Net>)> = LazyLock::new(|| {
    let v4 = BLOCKED_V4
        .iter()
        .map(|net| net.parse().expect("the table holds v4 networks"))
        .collect();
    let v6 = BLOCKED_V6
        .iter()
        .map(|net| net.parse().expect("the table holds v6 networks"))
        .collect();
    (v4, v6)
});

/// True for an address that a stranger may make us call.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !BLOCKED.0.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public(IpAddr::V4(v4)),
            None => v6.segments()[0] & 0xe000 == 0x2000 && !BLOCKED.1.iter().any(|net| net.contains(&v6)),
        },
    }
}

/// The v4 address that a v6 address really leads to: mapped, or by NAT64.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let is_nat64 = [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0];
    let low = Ipv4Addr::from((u32::from(g) << 16) | u32::from(h));
    v6.to_ipv4_mapped().or(is_nat64.then_some(low))
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It is none.
    #[error("is not a URL")]
    NotAUrl,
    /// Too long.
    #[error("has more than {URL_MAX} characters")]
    TooLong,
    /// Not https.
    #[error("must begin with https://")]
    Scheme,
    /// A name or password before the host.
    #[error("must not contain a user name or password")]
    UserInfo,
    /// Something after `#`.
    #[error("must not contain a fragment")]
    Fragment,
    /// A port that is not for this.
    #[error("must use port 443 or 8443")]
    Port,
    /// A host that is not on the public internet.
    #[error("must lead to a host on the public internet")]
    Host,
}

/// The normal form of an address that webhooks may be sent to.
///
/// `allow_private` is for development: plain http, any port, any host.
pub fn check_url(text: &str, allow_private: bool) -> Result<Url, BadUrl> {
    if text.len() > URL_MAX {
        return Err(BadUrl::TooLong);
    }
    // The parser forgives these; people who write them want something else to read another address than we do.
    if text
        .bytes()
        .any(|byte| byte.is_ascii_control() || byte == b' ' || byte == b'\\')
    {
        return Err(BadUrl::NotAUrl);
    }
    let url = Url::parse(text).map_err(|_| BadUrl::NotAUrl)?;
    if url.as_str().len() > URL_MAX {
        return Err(BadUrl::TooLong);
    }
    let is_scheme = url.scheme() == "https" || (allow_private && url.scheme() == "http");
    if !is_scheme {
        return Err(BadUrl::Scheme);
    }
    // As written, not as parsed: the parser drops an empty user name.
    let authority = text
        .split("//")
        .nth(1)
        .and_then(|rest| rest.split(['/', '?', '#']).next())
        .unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() || authority.contains('@') {
        return Err(BadUrl::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(BadUrl::Fragment);
    }
    if allow_private {
        return url.has_host().then_some(url).ok_or(BadUrl::Host);
    }
    if !url.port_or_known_default().is_some_and(|port| PORTS.contains(&port)) {
        return Err(BadUrl::Port);
    }
    let is_good = match url.host() {
        None => false,
        Some(Host::Ipv4(v4)) => is_public(IpAddr::V4(v4)),
        Some(Host::Ipv6(v6)) => is_public(IpAddr::V6(v6)),
        Some(Host::Domain(name)) => is_public_name(name),
    };
    if is_good { Ok(url) } else { Err(BadUrl::Host) }
}

/// Names that can only mean something here are refused before anybody is asked about them.
fn is_public_name(name: &str) -> bool {
    const PRIVATE: [&str; 10] = [
        "internal",
        "local",
        "localhost",
        "localdomain",
        "onion",
        "lan",
        "home",
        "corp",
        "intranet",
        "arpa",
    ];
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_named = name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()));
    match name.rsplit_once('.') {
        Some((_, last)) => is_named && !PRIVATE.contains(&last) && !last.bytes().all(|byte| byte.is_ascii_digit()),
        None => false,
    }
}

/// Asks for the addresses of names. A test brings its own, to answer as an attacker's name server would.
pub trait Names: fmt::Debug + Send + Sync {
    /// The addresses of a name; a port that is not zero stands in for one that the URL does not name.
    fn look_up(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's own resolver.
#[derive(Debug)]
struct System;

impl Names for System {
    fn look_up(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let name = name.to_owned();
        async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }.boxed()
    }
}

/// Resolves names, and refuses those with an address that is not public.
#[derive(Debug)]
struct Guard {
    names: Arc<dyn Names>,
    allow_private: bool,
}

/// The resolver's refusal, found again in the error of the request.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that is not public")]
struct Blocked;

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        let answer = self.names.look_up(name.as_str());
        Box::pin(async move {
            let addresses = answer.await?;
            vet(&addresses, allow_private)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// One bad address among good ones is enough: whoever controls the name chose it.
fn vet(addresses: &[SocketAddr], allow_private: bool) -> Result<(), Blocked> {
    let is_good = allow_private || addresses.iter().all(|address| is_public(address.ip()));
    if is_good { Ok(()) } else { Err(Blocked) }
}

/// Sends webhooks, guarded.
#[derive(Debug)]
pub struct Sender {
    client: reqwest::Client,
    allow_private: bool,
    tries: Mutex<breaker::Tries>,
}

/// Why the sender cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the sender of webhooks cannot be made: {0}")]
pub struct Unusable(String);

/// One try, as it is sent.
#[derive(Debug)]
pub struct Post<'a> {
    /// Where to, as it was registered.
    pub url: &'a str,
    /// The event's id: the same for every try.
    pub webhook_id: &'a str,
    /// Seconds, now: another for every try.
    pub timestamp: i64,
    /// The live secrets, newest first.
    pub secrets: &'a [String],
    /// The event's frozen bytes.
    pub body: String,
    /// The trace it is part of, as the header of that name has it.
    pub traceparent: Option<String>,
}

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// The receiver answered.
    Answered {
        /// With this status.
        status: u16,
        /// And asked for this much time.
        retry_after: Option<Duration>,
        /// And wants this message never again.
        abort: bool,
    },
    /// The address may not be called: nothing was sent.
    Blocked,
    /// The address cannot be called: nothing was sent.
    BadUrl(BadUrl),
    /// No answer in time.
    TimedOut,
    /// No answer. The words are few, so that nobody can use us to look around: a refused port reads like a blocked one.
    Failed(&'static str),
}

impl Sender {
    /// A sender; `allow_private` lifts the guard for development, where receivers are on loopback.
    pub fn new(allow_private: bool) -> Result<Self, Unusable> {
        Self::with_timeout(allow_private, TOTAL_TIMEOUT)
    }

    /// The same with another patience.
    pub fn with_timeout(allow_private: bool, total: Duration) -> Result<Self, Unusable> {
        Self::with_names(allow_private, total, Arc::new(System))
    }

    /// The same with another source of addresses.
    pub fn with_names(allow_private: bool, total: Duration, names: Arc<dyn Names>) -> Result<Self, Unusable> {
        crate::tls::install();
        let client = reqwest::Client::builder()
            .user_agent("orderfleet-webhooks/1")
            .dns_resolver(Arc::new(Guard { names, allow_private }))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(total)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .http1_max_headers(100)
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(32)
            .build()
            .map_err(|error| Unusable(format!("{error:?}")))?;
        Ok(Self {
            client,
            allow_private,
            tries: Mutex::default(),
        })
    }

    /// Whether private addresses are allowed.
    pub fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// Sends one try. Takes at most the total time-out, whatever the receiver does.
    pub async fn post(&self, post: Post<'_>) -> Posted {
        let url = match check_url(post.url, self.allow_private) {
            Ok(url) => url,
            Err(BadUrl::Host) => return Posted::Blocked,
            Err(error) => return Posted::BadUrl(error),
        };
        let signature = sign::signatures(post.secrets, post.webhook_id, post.timestamp, &post.body);
        let mut request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", post.webhook_id)
            .header("webhook-timestamp", post.timestamp)
            .header("webhook-signature", signature)
            .body(post.body);
        if let Some(traceparent) = post.traceparent {
            request = request.header("traceparent", traceparent);
        }
        match request.send().await {
            Ok(response) => self.read(response).await,
            Err(error) => judge(&error),
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Posted {
        if let Some(remote) = response.remote_addr()
            && vet(&[remote], self.allow_private).is_err()
        {
            tracing::error!("a webhook reached an address that is not public");
            return Posted::Blocked;
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let answered = Posted::Answered {
            status: response.status().as_u16(),
            retry_after: text(header::RETRY_AFTER.as_str())
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
            abort: text("webhook-delivery").is_some_and(|word| word.trim() == "abort-message"),
        };
        let read = async {
            let mut left = READ_MAX;
            while let Ok(Some(chunk)) = response.chunk().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
        };
        // The status is the answer; a body that does not end costs only its connection.
        let _ended = tokio::time::timeout(READ_TIMEOUT, read).await;
        answered
    }

    /// Counts a try of an endpoint; true when it should be left alone from now on.
    pub fn count(&self, endpoint: EndpointId, is_good: bool) -> bool {
        let mut tries = self.tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tries.count(endpoint, is_good, Instant::now())
    }
}

fn judge(error: &reqwest::Error) -> Posted {
    let mut source = std::error::Error::source(error);
    let mut is_tls = false;
    while let Some(cause) = source {
        if cause.downcast_ref::<Blocked>().is_some() {
            return Posted::Blocked;
        }
        is_tls |= cause.downcast_ref::<rustls::Error>().is_some()
            || cause
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::get_ref)
                .is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some());
        source = cause.source();
    }
    if is_tls {
        Posted::Failed("tls")
    } else if error.is_timeout() {
        Posted::TimedOut
    } else if error.is_connect() {
        Posted::Failed("unreachable")
    } else {
        Posted::Failed("no_answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What strangers register. None may be accepted, none may be called.
    fn hostile() -> Vec<String> {
        serde_json::from_str(include_str!("hostile_urls.json")).expect("a list of strings")
    }

    #[test]
    fn hostile_addresses_are_refused_when_registered() {
        assert!(hostile().len() >= 60);
        for text in hostile() {
            let checked = check_url(&text, false);
            assert!(checked.is_err(), "{text:?} is accepted as {checked:?}");
        }
        let long = format!("https://hooks.example.com/{}", "x".repeat(URL_MAX));
        assert_eq!(check_url(&long, false), Err(BadUrl::TooLong));
    }

    #[test]
    fn honest_addresses_are_accepted_in_their_normal_form() {
        let normal = |text: &str| check_url(text, false).map(String::from);
        assert_eq!(
            normal("https://hooks.example.com/a?b=c"),
            Ok("https://hooks.example.com/a?b=c".to_owned())
        );
        assert_eq!(
            normal("HTTPS://Hooks.Example.COM"),
            Ok("https://hooks.example.com/".to_owned())
        );
        assert_eq!(
            normal("https://hooks.example.com:443/"),
            Ok("https://hooks.example.com/".to_owned())
        );
        assert!(normal("https://hooks.example.com:8443/x").is_ok());
        assert!(normal("https://bücher.example/").is_ok());
        assert!(normal("https://8.8.8.8/").is_ok());
        assert!(normal("https://[2606:4700:4700::1111]/").is_ok());
        assert!(normal("https://[64:ff9b::8.8.8.8]/").is_ok());
    }

    #[test]
    fn one_private_address_among_public_ones_blocks_a_name() {
        let address = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
        assert!(vet(&[address("8.8.8.8"), address("2606:4700::1")], false).is_ok());
        assert!(vet(&[address("8.8.8.8"), address("127.0.0.1")], false).is_err());
        assert!(vet(&[address("::ffff:10.0.0.1")], false).is_err());
        assert!(vet(&[address("127.0.0.1")], true).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_blocked_when_it_is_resolved() {
        let guard = Guard {
            names: Arc::new(System),
            allow_private: false,
        };
        let resolved = guard.resolve("localhost".parse().expect("a name")).await;
        assert!(resolved.is_err_and(|error| error.downcast_ref::<Blocked>().is_some()));
    }

    #[test]
    fn development_allows_loopback_and_plain_http_but_no_passwords() {
        assert!(check_url("http://127.0.0.1:9000/hooks", true).is_ok());
        assert_eq!(check_url("http://user:pw@127.0.0.1/", true), Err(BadUrl::UserInfo));
        assert_eq!(check_url("file:///etc/passwd", true), Err(BadUrl::Scheme));
    }
}
