//! Policy, scene by scene: annotations of an app change while everything runs, and each scene checks what that does.
//!
//! The annotations are in files, in the form in which Kubernetes hands them to a pod. Played where nothing redirects, for the scenes
//! call proxies by their addresses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_ca::token::mint::TokenIssuer;

use super::network::Place;
use super::plan::{CANARY, FLAKY, Plan};
use super::script::finding::chain;
use super::script::{Check, Finding, check};
use crate::client::{self, Answer};

/// Plays all scenes.
pub(crate) async fn play(plan: &Plan) -> Vec<Check> {
    let scenes = Scenes { plan };
    vec![
        check(
            "a token is asked for, refused and accepted",
            scenes.token().await,
        ),
        check(
            "a caller that is not allowed gets 403",
            scenes.wrong_caller().await,
        ),
        check(
            "of 101 requests at 100/min the last gets 429",
            scenes.one_too_many().await,
        ),
        check(
            "a breaker opens, falls back and recovers",
            scenes.breaker().await,
        ),
        check(
            "a retry hides an endpoint that is dead",
            scenes.retry().await,
        ),
        check(
            "a tenth of the calls goes to the canary",
            scenes.canary().await,
        ),
        check(
            "a changed annotation acts within two seconds",
            scenes.live().await,
        ),
    ]
}

struct Scenes<'a> {
    plan: &'a Plan,
}

impl Scenes<'_> {
    async fn token(&self) -> Finding {
        let issuer = TokenIssuer::generate(LOGIN).map_err(|error| error.to_string())?;
        let keys = issuer.key_set().map_err(|error| error.to_string())?;
        let keys = self
            .plan
            .write("login.json", &keys)
            .map_err(|error| format!("{error:#}"))?;
        let jwt = format!(
            "{{issuer: \"{LOGIN}\", audiences: [orders], jwks: \"{}\"}}",
            keys.display()
        );
        let orders = &self.plan.orders;
        self.annotate(orders, &[("jwt", &jwt)]).await?;
        let without = self.call("orders", &[]).await?;
        expect(&without, 401, "jwt_missing")?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let claims =
            json!({"iss": LOGIN, "aud": "orders", "sub": "ada", "exp": now.as_secs() + 60});
        let token = issuer.sign(&claims).map_err(|error| error.to_string())?;
        let forged = self
            .call("orders", &[("authorization", "Bearer a.b.c")])
            .await?;
        expect(&forged, 401, "jwt_malformed")?;
        let bearer = format!("Bearer {token}");
        let with = self.call("orders", &[("authorization", &bearer)]).await?;
        expect(&with, 200, "")?;
        self.annotate(orders, &[]).await?;
        Ok("401 jwt_missing, 401 jwt_malformed, then 200 with ada's token".to_owned())
    }

    async fn wrong_caller(&self) -> Finding {
        let orders = &self.plan.orders;
        self.annotate(orders, &[("allow", "users")]).await?;
        expect(&self.call("orders", &[]).await?, 403, "authz_not_allowed")?;
        self.annotate(orders, &[("allow", "users, web")]).await?;
        expect(&self.call("orders", &[]).await?, 200, "")?;
        self.annotate(orders, &[]).await?;
        Ok("403 authz_not_allowed for web, 200 once it is named".to_owned())
    }

    async fn one_too_many(&self) -> Finding {
        let orders = &self.plan.orders;
        self.annotate(orders, &[("rate-limit", "100/min")]).await?;
        for number in 1..=100 {
            let answer = self.call("orders", &[]).await?;
            expect(&answer, 200, "")
                .map_err(|difference| format!("request {number}: {difference}"))?;
        }
        let refused = self.call("orders", &[]).await?;
        expect(&refused, 429, "rate_limited")?;
        let wait = text(&refused, "retry-after");
        self.annotate(orders, &[]).await?;
        Ok(format!("100 passed, the 101st: 429, Retry-After: {wait}"))
    }

    async fn breaker(&self) -> Finding {
        let (web, orders) = (&self.plan.web, &self.plan.orders);
        let calls = format!(
            "{{breaker: {{consecutive: 3, open-for: 1s}}, fallback: {{status: 200, body: {SORRY}}}}}"
        );
        self.annotate(web, &[("to.orders", &calls)]).await?;
        self.switch(orders, "/switch/broken").await?;
        for _ in 0..3 {
            expect(&self.call("orders", &[]).await?, 500, "")?;
        }
        let fallback = self.call("orders", &[]).await?;
        let (why, body) = (
            text(&fallback, FALLBACK),
            String::from_utf8_lossy(&fallback.body),
        );
        if fallback.status != StatusCode::OK || why != "breaker_open" || body != SORRY {
            return Err(format!("no fallback, but {} {why} {body}", fallback.status));
        }
        self.switch(orders, "/switch/mended").await?;
        let well = self.until(async || {
            let answer = self.call("orders", &[]).await.ok()?;
            (answer.status == StatusCode::OK && text(&answer, FALLBACK).is_empty()).then_some(())
        });
        let took = well.await.ok_or("it stays open though orders is well")?;
        self.annotate(web, &[]).await?;
        Ok(format!(
            "three 500s, then \"{SORRY}\", and well {:.1} s after orders was",
            took.as_secs_f64()
        ))
    }

    async fn retry(&self) -> Finding {
        for number in 1..=20 {
            let answer = self.call(FLAKY, &[]).await?;
            expect(&answer, 200, "")
                .map_err(|difference| format!("call {number}: {difference}"))?;
        }
        let metrics = client::get(
            self.plan.web.metrics,
            "localhost",
            "/metrics",
            &HeaderMap::new(),
        )
        .await;
        let metrics = metrics.map_err(|error| chain(&error))?;
        let metrics = String::from_utf8_lossy(&metrics.body);
        let counted =
            |line: &&str| line.starts_with("weft_retries_total{") && line.contains("\"connect\"");
        let line = metrics
            .lines()
            .find(counted)
            .ok_or("nothing was tried again")?;
        let times = line.rsplit(' ').next().unwrap_or_default();
        Ok(format!("20 calls answered, tried again: {times}"))
    }

    async fn canary(&self) -> Finding {
        let web = &self.plan.web;
        let routes = format!(
            "[{{split: [{{service: orders, weight: 9}}, {{service: {CANARY}, weight: 1}}]}}]"
        );
        self.annotate(web, &[("to.orders.routes", &routes), ("explain", "web")])
            .await?;
        let mut there = 0;
        for _ in 0..100 {
            let answer = self.call("orders", &[("x-weft-explain", "1")]).await?;
            expect(&answer, 200, "")?;
            there +=
                usize::from(text(&answer, "x-weft-explain").contains(&format!("service={CANARY}")));
        }
        self.annotate(web, &[]).await?;
        match there {
            9..=11 => Ok(format!("{there} of 100, as x-weft-explain tells")),
            _ => Err(format!("{there} of 100")),
        }
    }

    async fn live(&self) -> Finding {
        let orders = &self.plan.orders;
        self.write(orders, &[("deny", "web")])?;
        let denied = async || {
            let answer = self.call("orders", &[]).await.ok()?;
            (answer.status == StatusCode::FORBIDDEN).then_some(())
        };
        let took = self.until(denied).await.ok_or("it does not act")?;
        self.annotate(orders, &[]).await?;
        match took {
            took if took < Duration::from_secs(2) => Ok(format!("after {} ms", took.as_millis())),
            took => Err(format!("only after {took:?}")),
        }
    }

    /// Writes the annotations of an app.
    fn write(&self, place: &Place, annotations: &[(&str, &str)]) -> Result<(), String> {
        let written = self.plan.annotate(place.name, annotations);
        written.map_err(|error| format!("{error:#}"))
    }

    /// The same, and waits until its proxy has taken them.
    async fn annotate(&self, place: &Place, annotations: &[(&str, &str)]) -> Result<(), String> {
        let before = self
            .version(place)
            .await
            .ok_or("the proxy does not tell its policy")?;
        self.write(place, annotations)?;
        let taken = async || {
            self.version(place)
                .await
                .filter(|now| *now > before)
                .map(|_now| ())
        };
        let taken = self.until(taken).await;
        taken
            .map(|_took| ())
            .ok_or_else(|| format!("{} did not take its annotations", place.name.as_str()))
    }

    async fn version(&self, place: &Place) -> Option<u64> {
        let page = client::get(place.admin, "localhost", "/policy", &HeaderMap::new())
            .await
            .ok()?;
        let page: Value = serde_json::from_slice(&page.body).ok()?;
        page.get("version")?.as_u64()
    }

    /// How long it took until `ready` says so; `None` if that is too long.
    async fn until(&self, ready: impl AsyncFn() -> Option<()>) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if ready().await.is_some() {
                return Some(start.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    /// Calls `service` as web does.
    async fn call(
        &self,
        service: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::try_from(*value).map_err(|error| error.to_string())?;
            map.insert(HeaderName::from_static(name), value);
        }
        let answer = client::get(self.plan.web.outbound, service, "/orders", &map).await;
        answer.map_err(|error| chain(&error))
    }

    /// Tells the app itself, past the mesh.
    async fn switch(&self, place: &Place, path: &str) -> Result<(), String> {
        let told = client::get(place.app, place.name.as_str(), path, &HeaderMap::new()).await;
        told.map(|_answer| ()).map_err(|error| chain(&error))
    }
}

fn expect(answer: &Answer, status: u16, reject: &str) -> Result<(), String> {
    let (found, said) = (answer.status.as_u16(), text(answer, "x-weft-reject"));
    match (found, said) == (status, reject) {
        true => Ok(()),
        false => Err(format!("{found} {said} instead of {status} {reject}")),
    }
}

fn text<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let values = answer.headers.get_all(name).iter().rev();
    let mut values = values.filter_map(|value| value.to_str().ok());
    values.next().unwrap_or_default()
}

/// Who signs the tokens of the shop's customers.
const LOGIN: &str = "https://login.weft.demo";
const FALLBACK: &str = "x-weft-fallback";
/// "The orders service is busy, please try again later."
const SORRY: &str = "订单服务繁忙，请稍后再试";
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
