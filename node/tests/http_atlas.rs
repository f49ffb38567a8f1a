//! Atlas's tracker, as its own pages ask it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use harness::{Answer, Node};
use serde_json::{Value, json};

fn ask(node: &Node, head: &str, body: Value) -> Answer {
    let (method, path) = head.split_once(' ').unwrap();
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    node.http(&format!("{method} /api/v2beta{path}"), &body)
}

fn get(node: &Node, path: &str) -> Value {
    let answer = ask(node, &format!("GET {path}"), Value::Null);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

/// Ids of the jobs listed.
fn ids(listing: &Value) -> Vec<&str> {
    listing["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap()).collect()
}

#[test]
fn jobs_are_listed_filtered_and_sorted() {
    let node = Node::started("alpha");
    let submit = |lr: &str, code: &str| {
        let script = format!(
            "echo hello; echo '[\"p\",\"lr\",{lr}]' >> $FNODE_TRACK; \
             echo '[\"m\",\"loss\",{lr},null,1]' >> $FNODE_TRACK; exit {code}"
        );
        let id = node.submit(&[], &["sh", "-c", &script]);
        node.ended(&id);
        id
    };
    let (one, two) = (submit("0.5", "0"), submit("0.1", "3"));
    let listing = get(&node, "/projects/test/job_listing");
    assert_eq!((ids(&listing), &listing["name"]), (vec![two.as_str(), one.as_str()], &json!("test")));
    assert_eq!(listing["parameters"], json!([{"name": "lr", "type": "number"}]));
    assert_eq!(listing["output_metric_names"], json!([{"name": "loss", "type": "number"}]));
    let job = &listing["jobs"][1];
    assert_eq!(
        (&job["status"], &job["user"], &job["project"]),
        (&json!("completed"), &json!("tester"), &json!("test"))
    );
    assert_eq!(job["job_parameters"], json!([{"name": "lr", "value": 0.5, "type": "number"}]));
    assert_eq!(job["duration"], "0d0h0m0s");
    assert!(job["start_time"].as_str().unwrap().len() >= 19 && job["completed_time"].is_string(), "{job:#}");
    for (query, found) in [
        ("?status=completed", vec![&one]),
        ("?status=failed,running", vec![&two]),
        ("?lr_starts=0.2", vec![&one]),
        ("?loss_ends=0.2&user=tester", vec![&two]),
        ("?user=nobody", vec![]),
        ("?sort=-lr", vec![&one, &two]),
        ("/input_params:lr/asc", vec![&two, &one]),
        ("/output_metrics:loss/desc", vec![&one, &two]),
    ] {
        assert_eq!(ids(&get(&node, &format!("/projects/test/job_listing{query}"))), found, "{query}");
    }
    let wrong = ask(&node, "GET /projects/test/job_listing?lr_starts=x", Value::Null);
    assert_eq!((wrong.status, &wrong.json()["error"]["hint"]), (400, &json!("write a number")));
    let none = ask(&node, "GET /projects/none/job_listing", Value::Null);
    assert_eq!((none.status, &none.json()["error"]["message"]), (404, &json!("This project was not found")));
    assert_eq!(get(&node, &format!("/projects/test/job_listing/{one}/logs")), json!({"log": "hello\n"}));
    let overview = get(&node, "/projects/test/overview_metrics?metric_name=loss");
    assert_eq!(overview["metric_query"], json!([{"metric_name": "loss", "values": [[one, 0.5], [two, 0.1]]}]));
    let projects = get(&node, "/projects");
    assert_eq!((&projects[0]["name"], &projects[0]["owner"]), (&json!("test"), &json!("tester")));
}

#[test]
fn tags_descriptions_and_deletions_are_those_of_every_other_surface() {
    let node = Node::started("alpha");
    let id = node.submit(&["--array", "1-2"], &["true"]);
    node.completed(&id);
    let listing = get(&node, "/projects/test/job_listing?sort=job_id");
    assert_eq!(ids(&listing), [format!("{id}/1"), format!("{id}/2")]);
    let path = format!("/projects/test/job_listing/{id}%2F2");
    let tag = json!({"tag": {"key": "best", "value": "yes"}});
    assert_eq!(ask(&node, &format!("POST {path}/tags"), tag).status, 200);
    let tagged = get(&node, "/projects/test/job_listing?tags_contains=best");
    assert_eq!((ids(&tagged), &tagged["jobs"][0]["tags"]), (vec![format!("{id}/2").as_str()], &json!({"best": "yes"})));
    assert_eq!(ask(&node, &format!("DELETE {path}/tags/best"), Value::Null).status, 200);
    assert_eq!(get(&node, "/projects/test/job_listing?tags_contains=best")["jobs"], json!([]));
    let text = json!({"project_description": "eyes for robots"});
    assert_eq!(ask(&node, "PUT /projects/test/description", text.clone()).json(), text);
    assert_eq!(get(&node, "/projects/test/description"), text);
    assert_eq!(node.json(&["project", "list"])["projects"][0]["description"], "eyes for robots");
    assert_eq!(ask(&node, &format!("DELETE {path}"), Value::Null).status, 200);
    assert_eq!(ids(&get(&node, "/projects/test/job_listing")), [format!("{id}/1")]);
    let elsewhere = ask(&node, &format!("DELETE /projects/none/job_listing/{id}"), Value::Null);
    assert_eq!(elsewhere.status, 404);
}

#[test]
fn notes_on_a_project_are_those_of_every_other_surface() {
    let node = Node::started("alpha");
    node.completed(&node.submit(&[], &["true"]));
    assert_eq!(get(&node, "/projects/test/note_listing"), json!([]));
    let note = json!({"message": "dropout 0.5 was too much", "author": "ada"});
    assert_eq!(ask(&node, "POST /projects/test/note_listing", note).status, 200);
    node.ok(&["project", "note", "test", "so 0.2\nit is"]);
    let listed = get(&node, "/projects/test/note_listing");
    let told = |at: usize| (&listed[at]["message"], &listed[at]["author"]);
    assert_eq!(told(0), (&json!("dropout 0.5 was too much"), &json!("ada")));
    assert_eq!(told(1), (&json!("so 0.2\nit is"), &json!("tester")));
    assert!(listed[0]["date"].as_str().unwrap().starts_with("20"), "{listed}");
    let shown = node.json(&["project", "show", "test"]);
    assert_eq!((&shown["name"], &shown["notes"][1]["user"]), (&json!("test"), &json!("tester")));
    assert!(shown["notes"][0]["written_unix_ms"].as_u64() <= shown["notes"][1]["written_unix_ms"].as_u64());
    let text = node.ok(&["project", "show", "test"]);
    assert!(text.contains(", ada  dropout 0.5") && text.contains("it is\n"), "{text}");
    for (wrong, message) in [("  ", "the note is empty"), (&"x".repeat(4_097), "the note has 4097 bytes")] {
        node.refused(&["project", "note", "test", wrong], 2, message);
        let answer = ask(&node, "POST /projects/test/note_listing", json!({"message": wrong}));
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    node.refused(&["project", "note", "none", "x"], 1, "no project is named \"none\"; see fnode project list");
    node.refused(&["project", "show", "none"], 1, "no project is named \"none\"; see fnode project list");
    for head in ["GET /projects/none/note_listing", "POST /projects/none/note_listing"] {
        let body = if head.starts_with("GET") { Value::Null } else { json!({"message": "x"}) };
        let answer = ask(&node, head, body);
        assert_eq!((answer.status, &answer.json()["error"]["message"]), (404, &json!("This project was not found")));
    }
}
