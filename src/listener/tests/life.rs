//! The life of connections: pipelining, waiting, slowness, panics, draining, memory.

use std::time::Duration;

use crate::listener::tests::twin::{Stage, Task, pipe, statuses};
use crate::listener::{End, Limits};
use crate::telemetry::Metric;

const SECOND: Duration = Duration::from_secs(1);

fn post(body: &str) -> String {
    let length = body.len();
    format!("POST /api/v1/write HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn head(headers: &str) -> String {
    format!("POST /api/v1/write HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let receive = post("b").replace("write", "receive");
    let chunked =
        head("Transfer-Encoding: chunked\r\n") + "1;x=y\r\nc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n";
    client.send([post("a"), receive, chunked, "\r\n".into(), post("conflict"), post("")].concat());
    assert_eq!(statuses(&client.receive()), [204, 200, 204, 409, 204]);
    let seen: Vec<String> =
        ["a", "b", "cde", "conflict", ""].map(|b| format!("default-tenant:{b}")).into();
    assert_eq!(*stage.notes.seen.borrow(), seen);
    assert!(!client.peer.is_closed());
    assert_eq!(client.end(), Some(End::Peer));
}

#[test]
fn the_next_request_waits_for_the_answer_before() {
    let stage = Stage::new();
    stage.notes.slowness.set(1);
    let mut client = stage.connect();
    client.send(post("slow") + &post("b"));
    assert_eq!(client.receive(), "");
    assert_eq!(stage.notes.seen.borrow().len(), 1);
    stage.notes.slowness.set(0);
    client.settle();
    assert_eq!(statuses(&client.receive()), [204, 204]);
}

#[test]
fn versions_and_connection_options_decide_who_closes() {
    for (version, headers, closed) in [
        ("1.1", "", false),
        ("1.1", "Connection: keep-alive\r\n", false),
        ("1.1", "Connection: close\r\n", true),
        ("1.1", "Connection: foo, CLOSE\r\n", true),
        ("1.1", "Connection: foo\r\nConnection: close\r\n", true),
        ("1.0", "", true),
        ("1.0", "Connection: Keep-Alive\r\n", false),
        ("1.0", "Connection: keep-alive, close\r\n", true),
    ] {
        let stage = Stage::new();
        let mut client = stage.connect();
        client.send(head(headers).replace("1.1", version));
        let answer = client.receive();
        assert_eq!(statuses(&answer), [204]);
        assert_eq!(client.peer.is_closed(), closed, "{version} {headers:?}");
        assert_eq!(answer.contains("Connection: close\r\n"), closed);
        assert_eq!(answer.contains("Connection: keep-alive\r\n"), !closed);
    }
}

#[test]
fn the_configured_tenant_header_goes_first() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for (headers, tenant) in [
        ("", "default-tenant"),
        ("thanos-tenant: t\r\n", "t"),
        ("THANOS-TENANT: team a:b@c+50%é\r\n", "team a:b@c+50%é"),
        ("X-Scope-OrgID: x\r\nTHANOS-TENANT: t\r\n", "x"),
        ("X-Scope-OrgID:\r\nTHANOS-TENANT: t\r\n", "t"),
        ("X-Scope-OrgID: \r\nTHANOS-TENANT:\r\n", "default-tenant"),
    ] {
        client.send(head(headers));
        let seen = stage.notes.seen.borrow_mut().pop();
        assert_eq!(seen, Some(format!("{tenant}:")), "{headers:?}");
    }
}

#[test]
fn a_target_may_name_the_host() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for target in ["http://a/api/v1/write", "HTTP://a:80/api/v1/write?x=http://y"] {
        client.send(head("").replace("/api/v1/write", target));
        let seen = stage.notes.seen.borrow_mut().pop();
        assert_eq!(seen.as_deref(), Some("default-tenant:"), "{target}");
    }
}

#[test]
fn continue_is_said_only_when_the_body_will_be_read() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let expect = head("Content-Length: 1\r\nExpect: 100-Continue\r\n");
    client.send(&expect);
    assert_eq!(client.receive(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("x");
    assert_eq!(statuses(&client.receive()), [204]);
    // The body is there already: nothing to wait for.
    client.send(expect.clone() + "y");
    assert_eq!(statuses(&client.receive()), [204]);
    // No body will come.
    client.send(head("Content-Length: 0\r\nExpect: 100-continue\r\n"));
    assert_eq!(statuses(&client.receive()), [204]);
    // Refused: the body may never come, so the connection ends.
    stage.notes.not_ready.set(true);
    client.send(&expect);
    let answer = client.receive();
    assert_eq!(statuses(&answer), [503]);
    assert!(client.peer.is_closed());
}

#[test]
fn too_long_is_said_before_the_body_comes() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.send(head("Content-Length: 33554433\r\nExpect: 100-continue\r\n"));
    assert_eq!(statuses(&client.receive()), [413]);
    assert!(client.peer.is_closed());
}

#[test]
fn a_refused_sender_keeps_its_connection_if_its_body_is_short() {
    let stage = Stage::new();
    stage.notes.not_ready.set(true);
    let mut client = stage.connect();
    client.send(head("Content-Length: 5\r\nRetry-Attempt: 3\r\n"));
    let answer = client.receive();
    assert_eq!(statuses(&answer), [503]);
    let retry = answer.split("Retry-After: ").nth(1).and_then(|t| t.split("\r\n").next());
    let seconds: u32 = retry.and_then(|t| t.parse().ok()).expect("a Retry-After");
    assert!((20..=60).contains(&seconds));
    client.send("12");
    stage.notes.not_ready.set(false);
    client.send("345".to_owned() + &post("x"));
    assert_eq!(statuses(&client.receive()), [204]);
    assert_eq!(*stage.notes.seen.borrow(), ["default-tenant:x"]);
    assert_eq!(stage.listener.probe().bytes_discarded.value(), 5);

    stage.notes.not_ready.set(true);
    let long = Limits::default().discard_bytes_max + 1;
    client.send(head(&format!("Content-Length: {long}\r\n")));
    assert_eq!(statuses(&client.receive()), [503]);
    assert!(client.peer.is_closed());
}

#[test]
fn after_the_last_answer_input_is_read_on_for_a_while() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.send("junk\n");
    assert_eq!(statuses(&client.receive()), [400]);
    assert!(client.peer.is_closed());
    client.send(vec![b'x'; 100_000]);
    assert_eq!(client.peer.unread(), 0);
    assert_eq!(client.ended(), None);
    stage.clock.advance(2 * SECOND);
    assert_eq!(client.settle().ended(), Some(End::Answered));
    assert_eq!(stage.listener.buffer_bytes().0, 0);
}

#[test]
fn a_slow_head_is_408_and_a_resting_connection_just_ends() {
    let stage = Stage::new();
    let (mut slow, mut resting) = (stage.connect(), stage.connect());
    slow.send("POST /api/v1/write HT");
    for _ in 0..4 {
        stage.clock.advance(SECOND);
        slow.send("x");
        assert_eq!(slow.receive(), "");
    }
    stage.clock.advance(SECOND);
    assert_eq!(statuses(&slow.settle().receive()), [408]);
    assert!(slow.peer.is_closed());

    stage.clock.advance(54 * SECOND);
    assert_eq!(resting.settle().ended(), None);
    // Empty lines are no request, and do not prolong the rest.
    resting.send("\r\n\r");
    resting.send("\n");
    stage.clock.advance(SECOND);
    assert_eq!(resting.settle().ended(), Some(End::Idle));
    assert_eq!(resting.receive(), "");
    assert_eq!(stage.listener.probe().connections_idle.value(), 1);
}

#[test]
fn a_body_may_be_slow_for_a_while_and_then_must_keep_pace() {
    for (per_second, status) in [(1024, 204), (1023, 408)] {
        let stage = Stage::new();
        let mut client = stage.connect();
        client.send(head("Content-Length: 20481\r\n"));
        stage.clock.advance(29 * SECOND);
        client.send("x");
        stage.clock.advance(SECOND);
        client.settle();
        for second in 0..20 {
            client.send(vec![b'x'; per_second]);
            stage.clock.advance(SECOND);
            client.settle();
            let fits = second < 9 || per_second == 1024;
            assert!(!fits || !client.peer.is_closed(), "{per_second} at {second}");
        }
        assert_eq!(statuses(&client.receive()), [status]);
        assert_eq!(client.peer.is_closed(), status == 408);
    }
}

#[test]
fn a_body_that_keeps_pace_has_a_minute() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.send(head("Content-Length: 1000000\r\n"));
    for second in 0..60 {
        assert!(!client.peer.is_closed(), "at {second}");
        client.send(vec![b'x'; 2048]);
        stage.clock.advance(SECOND);
        client.settle();
    }
    assert_eq!(statuses(&client.receive()), [408]);
    assert!(client.peer.is_closed());
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_closed() {
    let stage = Stage::new();
    let mut client = stage.connect_with(100);
    client.send(post("conflict") + &post("x"));
    stage.clock.advance(29 * SECOND);
    assert_eq!(client.settle().ended(), None);
    assert_eq!(stage.notes.seen.borrow().len(), 1);
    stage.clock.advance(SECOND);
    assert_eq!(client.settle().ended(), Some(End::ReaderTooSlow));
    assert_eq!(stage.listener.probe().readers_too_slow.value(), 1);
}

#[test]
fn a_panic_costs_its_own_connection_only() {
    let stage = Stage::new();
    let (mut one, mut two) = (stage.connect(), stage.connect());
    two.send(&post("half")[..55]);
    one.send(post("panic") + &post("never"));
    assert_eq!(statuses(&one.receive()), [500]);
    assert!(one.peer.is_closed());
    let mut early = stage.connect();
    early.send(head("THANOS-TENANT: panic-early\r\n"));
    assert_eq!(statuses(&early.receive()), [500]);
    assert_eq!(stage.listener.probe().panics.value(), 2);
    two.send(&post("half")[55..]);
    assert_eq!(statuses(&two.receive()), [204]);
    assert_eq!(*stage.notes.seen.borrow(), ["default-tenant:panic", "default-tenant:half"]);
    drop((one, two, early));
    assert_eq!((stage.listener.connections(), stage.notes.under_way.get()), (0, 0));
    assert_eq!(stage.listener.buffer_bytes().0, 0);
}

#[test]
fn garbage_on_one_connection_leaves_another_alone() {
    let stage = Stage::new();
    let (peer, socket) = pipe(1 << 20);
    let (noise, noisy) = pipe(1 << 20);
    let listener = stage.listener.clone();
    // Both on one executor, in one task.
    let both = async move {
        futures_lite::future::zip(listener.serve(socket), listener.serve(noisy)).await
    };
    let mut task = Task::new(both);
    let request = post("good");
    for (i, byte) in request.bytes().enumerate() {
        peer.send(&[byte]);
        noise.send(&[(i * 31) as u8, byte ^ 0x80]);
        while task.turn() {}
    }
    assert_eq!(statuses(&peer.receive()), [204]);
    assert!(!peer.is_closed());
    assert_eq!(statuses(&noise.receive()), [400]);
    assert!(noise.is_closed());
    peer.end();
    noise.end();
    while task.turn() {}
    assert_eq!(task.result, Some((End::Peer, End::Answered)));
}

#[test]
fn a_flood_on_one_connection_gives_way_to_others() {
    let stage = Stage::new();
    let (flood, socket) = pipe(usize::MAX);
    let listener = stage.listener.clone();
    let mut task = Task::new(async move { listener.serve(socket).await });
    let request = post("x");
    flood.send(request.repeat(100).as_bytes());
    flood.send(head("Content-Length: 2000000\r\n").as_bytes());
    flood.send(&vec![b'x'; 2_000_000]);
    let mut turns = 0;
    while task.turn() {
        turns += 1;
        let done = stage.notes.seen.borrow().len();
        assert!(done <= turns, "{done} requests in {turns} turns");
    }
    assert_eq!(stage.notes.seen.borrow().len(), 101);
    assert!(turns > 100 + 2_000_000 / (256 << 10), "{turns} turns");
}

#[test]
fn draining_finishes_what_has_begun() {
    let stage = Stage::new();
    stage.notes.slowness.set(1);
    let (mut resting, mut busy, mut reading) = (stage.connect(), stage.connect(), stage.connect());
    busy.send(post("slow") + &post("not taken"));
    reading.send(&post("half")[..55]);
    stage.drain.send(true).expect("listeners");
    assert_eq!(resting.settle().ended(), Some(End::Drained));
    assert_eq!((busy.settle().ended(), reading.settle().ended()), (None, None));
    stage.notes.slowness.set(0);
    reading.send(&post("half")[55..]);
    busy.settle();
    for client in [&mut busy, &mut reading] {
        let answer = client.receive();
        assert_eq!(statuses(&answer), [204]);
        assert!(answer.contains("Connection: close\r\n"));
        assert!(client.peer.is_closed());
        assert_eq!(client.end(), Some(End::Answered));
    }
    assert_eq!(*stage.notes.seen.borrow(), ["default-tenant:slow", "default-tenant:half"]);
}

#[test]
fn one_connection_too_many_is_503() {
    let stage = Stage::with(Limits { connections_max: 1, ..Limits::default() });
    let mut first = stage.connect();
    let mut second = stage.connect();
    let answer = second.receive();
    assert_eq!(statuses(&answer), [503]);
    assert!(answer.contains("Retry-After: "));
    assert_eq!(second.ended(), Some(End::Refused));
    assert_eq!(statuses(&first.send(post("x")).receive()), [204]);
    first.end();
    assert_eq!(statuses(&stage.connect().send(post("x")).receive()), [204]);
    assert_eq!(stage.listener.probe().connections_refused.value(), 1);
    assert_eq!(stage.counted(Metric::HttpRequests, &[("code", "204"), ("handler", "receive")]), 2);
    assert_eq!(stage.counted(Metric::HttpRequests, &[("code", "503"), ("handler", "none")]), 1);
}

#[test]
fn a_connection_at_rest_owns_no_buffer() {
    let stage = Stage::new();
    let mut clients: Vec<_> = (0..50).map(|_| stage.connect()).collect();
    // They share the one they look for input with.
    assert_eq!(stage.listener.buffer_bytes(), (0, 64 << 10));
    let body = "x".repeat(150 << 10);
    for client in &mut clients {
        client.send(&post(&body)[..1000]);
    }
    assert_eq!(stage.listener.buffer_bytes(), (50 * (64 << 10), 0));
    for client in &mut clients {
        client.send(&post(&body)[1000..]);
        assert_eq!(statuses(&client.receive()), [204]);
    }
    let (lent, kept) = stage.listener.buffer_bytes();
    assert_eq!(lent, 0);
    assert!(kept >= 50 * body.len() && kept <= Limits::default().kept_bytes_max, "{kept}");
    // The body goes back as soon as it is dropped, not when the answer is out.
    stage.notes.slowness.set(1);
    clients[0].send(post("slow"));
    assert_eq!(stage.notes.under_way.get(), 1);
    assert_eq!(stage.listener.buffer_bytes(), (0, kept));
}

#[test]
fn where_the_buffers_end_requests_are_503_and_rest_goes_on() {
    let limits = Limits { lent_bytes_max: 128 << 10, ..Limits::default() };
    let stage = Stage::with(limits);
    let (mut one, mut two) = (stage.connect(), stage.connect());
    one.send(head("Content-Length: 100000\r\n") + &"x".repeat(80_000));
    assert!(stage.listener.buffer_bytes().0 > 64 << 10);
    let mut three = stage.connect();
    assert_eq!(three.ended(), None);
    two.send(post("x"));
    assert_eq!(statuses(&two.receive()), [503]);
    assert!(two.peer.is_closed());
    one.send("x".repeat(20_000));
    assert_eq!(statuses(&one.receive()), [204]);
    assert_eq!(statuses(&three.send(post("x")).receive()), [204]);
    // Half a body that finds no more room.
    one.send(head("Content-Length: 1000000\r\n") + &"x".repeat(200_000));
    assert_eq!(statuses(&one.receive()), [503]);
    one.end();
    assert_eq!(stage.listener.buffer_bytes().0, 0);
}

#[test]
fn heads_get_everything_but_the_text() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.send("HEAD /api/v1/write HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    let answers = client.receive();
    assert_eq!(statuses(&answers), [405, 404]);
    let (first, second) = answers.split_once("\r\n\r\n").expect("two answers");
    assert!(first.contains("Allow: POST\r\n") && first.contains("Content-Length: 6"));
    assert!(second.starts_with("HTTP/1.1 404 "), "{second}");
}
