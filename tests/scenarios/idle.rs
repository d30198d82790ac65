//! Kept connections that the app closes: the race between its idle limit and the next request costs no caller anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weft_tests::app::{App, read_head};
use weft_tests::client::{Answer, Http1};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;

/// How often each request was read whole, by its request line.
type Seen = Arc<Mutex<HashMap<String, u32>>>;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Closes a connection that was idle for `limit`, and every connection after `most` answers, without a word; counts what
/// it has closed.
fn impatient(limit: Duration, most: u32, seen: Seen, closed: Arc<AtomicU32>) -> App {
    App::tcp(move |io| {
        let (seen, closed) = (Arc::clone(&seen), Arc::clone(&closed));
        async move {
            serve(io, limit, most, seen).await;
            closed.fetch_add(1, Ordering::SeqCst);
        }
    })
}

async fn serve(mut io: TcpStream, limit: Duration, most: u32, seen: Seen) {
    for _ in 0..most {
        let Ok(Some(head)) = timeout(limit, read_head(&mut io)).await else {
            return;
        };
        let line = head.lines().next().unwrap_or_default().to_owned();
        *seen.lock().entry(line).or_default() += 1;
        if io.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// A kernel that is behind with its work lets our bytes overtake the close that was before them: then nobody can tell whether the
/// app has read them, and a POST is not sent again. On a quiet machine there is none.
fn answered(answer: &Answer, path: &str, crossed: &AtomicU32) {
    if answer.status == 200 {
        return;
    }
    assert_eq!(answer.reject(), "upstream_reset", "{path}: {answer:?}");
    let times = crossed.fetch_add(1, Ordering::SeqCst) + 1;
    assert!(times <= MOST_CROSSED, "{path}: the {times}th that was lost");
}

/// Of some hundreds.
const MOST_CROSSED: u32 = 3;

fn twice(seen: &Seen) -> Vec<String> {
    let seen = seen.lock();
    let more = seen
        .iter()
        .filter(|(line, times)| line.starts_with("POST") && **times > 1);
    more.map(|(line, times)| format!("{line} {times}x"))
        .collect()
}

#[tokio::test]
async fn a_request_at_the_idle_boundary_is_answered_and_no_post_sent_twice() {
    let seen = Seen::default();
    let limit = Duration::from_millis(200);
    let pair = Pair::new(impatient(
        limit,
        u32::MAX,
        Arc::clone(&seen),
        Arc::default(),
    ));
    let mut clients = tokio::task::JoinSet::new();
    let crossed = Arc::<AtomicU32>::default();
    for worker in 0..16_u64 {
        let (outbound, crossed) = (pair.web.outbound, Arc::clone(&crossed));
        clients.spawn(async move {
            let mut client = Http1::connect(outbound).await;
            for number in 0..20_u64 {
                let path = format!("/{worker}/{number}");
                // The first request at the boundary is one that may be repeated: from it the limit is learnt.
                let answer = match number % 2 {
                    0 => client.post("orders", &path, b"").await,
                    _ => client.get("orders", &path).await,
                };
                answered(&answer, &path, &crossed);
                // From 4 ms before the app closes to 4 ms after, in steps of half a millisecond.
                let offset = Duration::from_micros(((worker * 20 + number) % 17) * 500);
                sleep_until(Instant::now() + limit - Duration::from_millis(4) + offset).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert!(twice(&seen).is_empty(), "sent twice: {:?}", twice(&seen));
}

#[tokio::test]
async fn an_app_that_closes_after_every_fifth_answer_costs_nobody_an_error() {
    let seen = Seen::default();
    let closed = Arc::<AtomicU32>::default();
    let app = impatient(
        Duration::from_secs(30),
        5,
        Arc::clone(&seen),
        Arc::clone(&closed),
    );
    let pair = Pair::new(app);
    let crossed = AtomicU32::new(0);
    let mut client = Http1::connect(pair.web.outbound).await;
    for number in 0..500_u32 {
        let path = format!("/{number}");
        let answer = match number % 2 {
            0 => client.get("orders", &path).await,
            _ => client.post("orders", &path, b"").await,
        };
        answered(&answer, &path, &crossed);
        // A POST that crosses the close on the wire may have been read: nobody can repeat that one. What is asked here is
        // that a connection which the app has closed already costs nothing.
        let look = async || closed.load(Ordering::SeqCst);
        eventually(Duration::from_secs(5), look, |closed| {
            *closed == (number + 1) / 5
        })
        .await;
    }
    assert!(twice(&seen).is_empty(), "sent twice: {:?}", twice(&seen));
}

#[tokio::test]
async fn a_post_that_an_app_left_unread_when_it_closed_goes_over_another_connection() {
    let seen = Seen::default();
    let counted = Arc::clone(&seen);
    let app = App::tcp(move |mut io| {
        let counted = Arc::clone(&counted);
        async move {
            serve_once(&mut io, &counted).await;
            // Its goodbye crosses the next request, which it never reads; the kernel tells of that when the socket is gone.
            let _readable = io.readable().await;
            let _ = io.shutdown().await;
            sleep(Duration::from_millis(1)).await;
        }
    });
    let pair = Pair::new(app);
    let mut client = Http1::connect(pair.web.outbound).await;
    for number in 0..20_u32 {
        let answer = client.post("orders", &format!("/{number}"), b"once").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let seen = seen.lock();
    assert!(seen.len() == 20 && seen.values().all(|times| *times == 1));
}

async fn serve_once(io: &mut TcpStream, seen: &Seen) {
    let head = read_head(io).await.unwrap();
    let mut body = [0; 4];
    io.read_exact(&mut body).await.unwrap();
    let line = head.lines().next().unwrap_or_default().to_owned();
    *seen.lock().entry(line).or_default() += 1;
    io.write_all(ANSWER).await.unwrap();
}

#[tokio::test]
async fn a_post_that_an_app_has_begun_to_read_is_not_sent_again() {
    let seen = Seen::default();
    let counted = Arc::clone(&seen);
    let app = App::tcp(move |mut io| {
        let counted = Arc::clone(&counted);
        async move {
            let head = read_head(&mut io).await.unwrap_or_default();
            let line = head.lines().next().unwrap_or_default().to_owned();
            *counted.lock().entry(line).or_default() += 1;
            // What it leaves unread has the kernel reset the connection, after its goodbye.
            sleep(Duration::from_millis(5)).await;
            let _ = io.shutdown().await;
            sleep(Duration::from_millis(1)).await;
        }
    });
    let pair = Pair::new(app);
    for number in 0..5_u32 {
        let mut client = Http1::connect(pair.web.outbound).await;
        let head = format!(
            "POST /{number} HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        client.send(head).await;
        for _ in 0..10 {
            client.send("1\r\na\r\n").await;
            sleep(Duration::from_micros(300)).await;
        }
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    assert!(twice(&seen).is_empty(), "sent twice: {:?}", twice(&seen));
    assert_eq!(seen.lock().len(), 5);
}
