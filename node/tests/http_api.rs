//! The HTTP API as any client sees it: who may come in, what is described, what a refusal looks like, streams.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use harness::{Answer, DEADLINE, Node, ask};
use serde_json::json;

fn tcp(node: &Node, head: &str, headers: &str) -> Answer {
    let addr = node.api()["addr"].as_str().unwrap().to_owned();
    ask(TcpStream::connect(&addr).unwrap(), head, headers, b"")
}

#[test]
fn loopback_needs_the_token_and_the_nodes_own_name() {
    let node = Node::started("alpha");
    let api = node.api();
    let (addr, token) = (api["addr"].as_str().unwrap(), api["token"].as_str().unwrap());
    let host = format!("Host: {addr}\r\n");
    let known = format!("{host}Authorization: Bearer {token}\r\n");
    let answer = tcp(&node, "GET /node", &known);
    assert_eq!((answer.status, &answer.json()["name"]), (200, &json!("alpha")));
    assert!(answer.head.contains(&format!("fnode-version: {}", env!("CARGO_PKG_VERSION"))), "{}", answer.head);
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    for (headers, status, code) in [
        (host.clone(), 401, "unauthorized"),
        (format!("{host}Authorization: Bearer {token}x\r\n"), 401, "unauthorized"),
        (format!("Host: evil.example\r\nAuthorization: Bearer {token}\r\n"), 403, "forbidden"),
        (format!("{known}Origin: http://evil.example\r\n"), 403, "forbidden"),
    ] {
        let refused = tcp(&node, "GET /node", &headers);
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (status, Some(code)), "{headers}");
        assert!(refused.head.contains("fnode-version"), "{}", refused.head);
    }
    let own = tcp(&node, "GET /node", &format!("{known}Origin: http://{addr}\r\n"));
    assert_eq!(own.status, 200);
}

#[test]
fn every_described_route_answers_and_says_what_was_wrong() {
    let node = Node::started("alpha");
    let page = node.http("GET /openapi.json", b"").json();
    assert_eq!(page["openapi"], "3.1.0");
    let mut routes = 0;
    for (path, operations) in page["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            // It would end the daemon, and the checks take seconds.
            if path.ends_with("/shutdown") || path.ends_with("/doctor") || path.ends_with("/events") {
                continue;
            }
            let path = path.replace(['{', '}'], "");
            let answer = node.http(&format!("{} {path}", method.to_uppercase()), b"");
            assert_ne!(answer.status, 405, "{method} {path}");
            if answer.status >= 400 {
                let error = &answer.json()["error"];
                let message = error["message"].as_str().unwrap();
                assert!(message != "there is no such path" && !message.is_empty(), "{method} {path}: {error}");
            }
            routes += 1;
        }
    }
    assert!(routes > 30, "{routes}");
    for reference in references(&page) {
        assert!(page.pointer(&reference).is_some(), "{reference} is not described");
    }
    assert_eq!(node.http("GET /nothing", b"").json()["error"]["message"], "there is no such path");
    assert_eq!(node.http("DELETE /status", b"").status, 405);
}

fn references(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match value.as_str() {
                Some(text) if key == "$ref" => vec![text.trim_start_matches('#').to_owned()],
                _ => references(value),
            })
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn wrong_requests_are_refused_with_a_reason_and_a_remedy() {
    let node = Node::started("alpha");
    let post = |body: &str| node.http("POST /jobs", body.as_bytes());
    for (body, status, says) in [
        ("", 400, "the body is not what this route takes"),
        ("[]", 400, "the body is not what this route takes"),
        (r#"{"project":"p","command":["true"],"cpu":1}"#, 400, "unknown field `cpu`"),
        (r#"{"project":"p","command":[]}"#, 400, "no command is given"),
        (r#"{"project":"p","command":["true"],"cpu_milli":0}"#, 400, "cpus 0 cannot be had"),
        (r#"{"project":"p","command":["true"],"array":"9-1"}"#, 400, "is not a list of indices"),
        (r#"{"project":"p","command":["true"],"bundle":"x"}"#, 400, "is not a content id"),
        (r#"{"project":"p","command":["true"],"after":[{"job":"ffff"}]}"#, 404, "no job is known as"),
        (r#"{"project":"p","command":["true"],"nodes":["zeta"]}"#, 404, "no node is known as"),
    ] {
        let answer = post(body);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, status, "{body}: {message}");
        assert!(message.contains(says), "{body}: {message}");
    }
    let unknown = json!({"project": "p", "command": ["true"], "bundle": "0".repeat(64)}).to_string();
    assert_eq!(post(&unknown).status, 409);
    let large = node.http("POST /invite", &vec![b' '; 3 << 20]);
    assert_eq!((large.status, large.json()["error"]["code"].as_str()), (413, Some("too_large")));
    assert_eq!(node.http("GET /jobs?colour=red", b"").status, 400);
    assert_eq!(node.http("GET /jobs?state=odd", b"").status, 400);
    assert_eq!(node.http("GET /jobs?limit=9999", b"").status, 400);
    let wrong = node.http(&format!("PUT /blobs/{}", "0".repeat(64)), b"bytes");
    assert!(wrong.json()["error"]["message"].as_str().unwrap().contains("the bytes sent are blob"));
    assert_eq!(node.http("POST /bundles", b"no manifest").status, 400);
}

#[test]
fn an_id_of_the_clients_makes_a_repeated_submission_harmless() {
    let node = Node::started("alpha");
    let id = "01a1fd04-0afa-78ca-93ae-0dd9bbed2d77";
    let body = json!({"id": id, "project": "p", "command": ["true"]}).to_string();
    assert_eq!(node.http("POST /jobs", body.as_bytes()).json()["id"], id);
    let again = node.http("POST /jobs", body.as_bytes());
    assert_eq!((again.status, again.json()["error"]["code"].as_str()), (409, Some("conflict")));
    let own = json!({"id": "01a1fd04-0afa-78ca-93ae-0dd9bbed2d78", "project": "p", "command": ["true"],
        "after": [{"job": "01a1fd04-0afa-78ca-93ae-0dd9bbed2d78"}]});
    let cycle = node.http("POST /jobs", own.to_string().as_bytes());
    assert_eq!((cycle.status, cycle.json()["error"]["message"].as_str()), (400, Some("the job would wait for itself")));
}

#[test]
fn pages_are_walked_by_their_cursor() {
    let node = Node::started("alpha");
    let ids: Vec<String> = (0..5).map(|_| node.submit(&[], &["true"])).collect();
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = node.http(&format!("GET /jobs?limit=2&after={after}"), b"").json();
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        after = page["next"].as_str().unwrap().to_owned();
        if after.is_empty() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, ids);
    assert_eq!(node.http("GET /jobs?after=nonsense", b"").status, 400);
}

/// Reads server-sent events until one satisfies `is_it`; returns its data.
fn event(node: &Node, path: &str, headers: &str, is_it: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let mut stream = UnixStream::connect(node.home().join("run/api.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("GET /api/fnode/v1{path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for line in BufReader::new(stream).lines() {
        let line = line.expect("an event in time");
        if let Some(data) = line.strip_prefix("data: ").or(line.strip_prefix("data:")) {
            let word = serde_json::from_str(data).unwrap();
            if is_it(&word) {
                return word;
            }
        }
    }
    panic!("the stream ended");
}

#[test]
fn events_and_logs_stream() {
    let node = Node::started("alpha");
    std::thread::scope(|scope| {
        let watched =
            scope.spawn(|| event(&node, "/events", "", |word| word["kind"] == "job" && word["text"] == "completed"));
        // Events are heard from the moment of asking: until the watcher has one, there are more.
        while !watched.is_finished() {
            let id = node.submit(&[], &["true"]);
            node.completed(&id);
        }
        assert!(watched.join().unwrap()["job"].as_str().unwrap().len() >= 36);
    });
    let id = node.submit(&[], &["sh", "-c", "echo ä; sleep 0.2; echo end"]);
    let path = format!("/jobs/{id}/log?follow=1");
    let accept = "Accept: text/event-stream\r\n";
    let last = event(&node, &path, accept, |word| word["text"].as_str().unwrap().contains("end"));
    assert_eq!(last["next_offset"], 7);
    let bytes = node.http(&format!("GET /jobs/{id}/log"), b"");
    assert_eq!(bytes.body, "ä\nend\n".as_bytes());
    assert!(bytes.head.contains("fnode-attempt: 1.1"), "{}", bytes.head);
    let resumed = event(&node, &format!("/jobs/{id}/log"), &format!("{accept}Last-Event-ID: 3\r\n"), |_| true);
    assert_eq!(resumed["text"], "end\n");
}

/// Ids of the jobs listed, page by page of `limit`.
fn sorted(node: &Node, path: &str, limit: usize) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.http(&format!("GET {path}&limit={limit}&after={after}"), b"").json();
        let jobs = page["jobs"].as_array().unwrap_or_else(|| panic!("{page}")).clone();
        assert!(jobs.len() <= limit, "{page}");
        ids.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        after = page["next"].as_str().unwrap().to_owned();
        if after.is_empty() {
            return ids;
        }
    }
}

#[test]
fn jobs_come_in_the_order_asked_for_page_by_page() {
    let node = Node::started("alpha");
    let run = |name: &str, lines: &str| {
        let id = node.submit(&["--name", name], &["sh", "-c", &format!("echo '{lines}' >> $FNODE_TRACK")]);
        node.completed(&id);
        id
    };
    let loss = |name: &str, value: &str| run(name, &format!("[\"m\",\"loss\",{value},null,1]"));
    let [a, b, c] = [loss("a", "0.5"), loss("b", "{\"f\":\"nan\"}"), loss("c", "0.25")];
    let (d, e) = (run("d", "[\"p\",\"lr\",3]"), loss("e", "7"));
    let ids = |of: [&String; 5]| of.map(Clone::clone).to_vec();
    for limit in [1, 2, 5] {
        let list = |sort: &str| sorted(&node, &format!("/jobs?sort={sort}"), limit);
        assert_eq!(list("metric:loss"), ids([&c, &a, &e, &d, &b]), "NaN and nothing are last");
        assert_eq!(list("-metric:loss"), ids([&e, &a, &c, &d, &b]), "in both directions");
        assert_eq!(list("-param:lr,name"), ids([&d, &a, &b, &c, &e]));
        assert_eq!(list("submitted"), ids([&a, &b, &c, &d, &e]));
        assert_eq!(list("state,-name"), ids([&e, &d, &c, &b, &a]));
    }
    let wrong = node.http("GET /jobs?sort=metric:los", b"");
    assert_eq!((wrong.status, &wrong.json()["error"]["hint"]), (400, &json!("did you mean metric:loss?")));
    node.refused(
        &["jobs", "--sort", "-sumbitted"],
        2,
        "\"sumbitted\" is no column to sort by; did you mean submitted?",
    );
    let shown = node.json(&["jobs", "--sort", "-metric:loss", "-n", "2"]);
    assert_eq!((&shown["jobs"][0]["id"], &shown["jobs"][1]["metrics"]["loss"]["last"]), (&json!(e), &json!(0.5)));
    assert_eq!(node.http("GET /jobs?sort=name&after=zz", b"").status, 400);
    let script = "echo \"[\\\"m\\\",\\\"loss\\\",$((FNODE_ARRAY_INDEX * 7 % 5)),null,1]\" >> $FNODE_TRACK";
    let array = node.submit(&["--array", "1-5"], &["sh", "-c", script]);
    node.completed(&array);
    let members = sorted(&node, &format!("/jobs/{array}/members?sort=-metric:loss"), 2);
    assert_eq!(members, ["2", "4", "1", "3", "5"].map(|index| format!("{array}/{index}")));
}
