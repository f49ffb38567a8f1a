//! What is recorded of every job without being asked: its code, its machine, its packages.

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Node, write};
use serde_json::json;

/// Runs git in `dir`; `None`: there is no git here.
fn git(dir: &Path, words: &[&str]) -> Option<()> {
    let mut command = Command::new("git");
    command.args(["-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]).args(words).current_dir(dir);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let ran = command.output().ok()?;
    assert!(ran.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Some(())
}

/// A checkout with one commit.
fn checkout(dir: &Path) -> Option<()> {
    write(&dir.join("train.sh"), "echo one\n");
    write(&dir.join("secret.env"), "TOKEN=1\n");
    write(&dir.join(".fnodeignore"), "secret.env\n");
    git(dir, &["init", "--quiet"])?;
    git(dir, &["config", "user.name", "Ada"])?;
    git(dir, &["config", "user.email", "ada@example.org"])?;
    git(dir, &["remote", "add", "origin", "https://ada:t0ken@git.example.org/ada/x.git"])?;
    git(dir, &["add", "."])?;
    git(dir, &["commit", "--quiet", "-m", "one"])
}

#[test]
fn a_job_tells_which_code_it_ran() {
    let node = Node::started("alpha");
    let dir = node.file("project");
    if checkout(&dir).is_none() {
        eprintln!("skipped: there is no git here");
        return;
    }
    let submit = || {
        let id = node.json(&["submit", dir.to_str().unwrap(), "--", "sh", "train.sh"])["id"].clone();
        let id = id.as_str().unwrap().to_owned();
        node.completed(&id);
        (node.json(&["job", "show", &id]), id)
    };
    let (clean, id) = submit();
    let code = &clean["checkout"];
    assert_eq!((&code["branch"], &code["author"]), (&json!("main"), &json!("Ada <ada@example.org>")));
    assert_eq!((&code["remote"], &code["is_dirty"]), (&json!("https://git.example.org/ada/x.git"), &json!(false)));
    assert_eq!((code["commit"].as_str().unwrap().len(), &code["diff"]), (40, &json!(null)));
    node.refused(&["job", "diff", &id], 1, &format!("job {id} was submitted without uncommitted changes"));

    write(&dir.join("train.sh"), "echo two\n");
    write(&dir.join("secret.env"), "TOKEN=2\n");
    let (dirty, id) = submit();
    assert_eq!(dirty["checkout"]["is_dirty"], true);
    assert_eq!(dirty["checkout"]["commit"], code["commit"]);
    let diff = node.ok(&["job", "diff", &id]);
    assert!(diff.contains("-echo one\n+echo two\n") && !diff.contains("TOKEN"), "{diff}");
    assert_eq!(dirty["checkout"]["diff"]["size"], diff.len());
    assert_eq!(node.ok(&["logs", &id]), "two\n");
    let shown = node.ok(&["job", "show", &id]);
    assert!(shown.contains(&format!("fnode job diff {id}")) && !shown.contains("t0ken"), "{shown}");
    let again = node.json(&["submit", dir.to_str().unwrap(), "--", "true"]);
    assert_eq!(again["sent_bytes"], 0, "the same changes are sent once");
}

#[test]
fn a_slow_git_delays_a_submission_by_a_second_and_no_more() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::started("alpha");
    let dir = node.file("project");
    write(&dir.join("train.sh"), "true\n");
    std::fs::create_dir(dir.join(".git")).unwrap();
    let slow = node.file("bin/git");
    write(&slow, "#!/bin/sh\nexec sleep 60\n");
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", node.file("bin").display(), std::env::var("PATH").unwrap());
    let began = std::time::Instant::now();
    let ran = node.command(&["submit", dir.to_str().unwrap(), "--", "true"]).env("PATH", path).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    let jobs = node.json(&["jobs"]);
    let id = jobs["jobs"][0]["id"].as_str().unwrap();
    assert_eq!(node.json(&["job", "show", id])["checkout"], json!(null));
}

#[test]
fn a_job_tells_what_it_ran_with() {
    let node = Node::started("alpha");
    let kept = node.submit(&[], &["true"]);
    let bare = node.submit(&["--no-capture", "--no-outputs"], &["true"]);
    for id in [&kept, &bare] {
        node.completed(id);
        let job = node.json(&["job", "show", id]);
        let with = &job["attempts"][0]["ran_with"];
        for text in ["hostname", "os", "kernel", "architecture", "fnode"] {
            assert!(with[text].as_str().is_some_and(|text| !text.is_empty()), "{text}: {job:#}");
        }
        assert!(with["cpu_threads"].as_u64() > Some(0) && with["memory_bytes"].as_u64() > Some(0), "{with:#}");
    }
    let shown = node.ok(&["job", "show", &kept]);
    assert!(shown.contains("ran with") && shown.contains("CPU threads"), "{shown}");
    // A node that starts anew has told it already.
    node.ok(&["shutdown"]);
    node.start(&["--name", "alpha"]);
    let later = node.submit(&[], &["true"]);
    node.completed(&later);
    let with = |id: &str| node.json(&["job", "show", id])["attempts"][0]["ran_with"].clone();
    assert_eq!((with(&later), with(&kept)["hostname"].is_string()), (with(&kept), true));
}

#[test]
fn a_running_job_tells_its_machine_too() {
    let node = Node::started("alpha");
    let id = node.submit(&[], &["sleep", "60"]);
    let job = node.until(&["job", "show", &id], "/state", &json!("running"));
    let job = if job["attempts"][0]["ran_with"].is_null() { node.json(&["job", "show", &id]) } else { job };
    assert!(job["attempts"][0]["ran_with"]["hostname"].is_string(), "{job:#}");
    node.ok(&["stop", &id]);
}

#[test]
fn a_diff_that_is_not_in_the_bundle_is_refused() {
    let node = Node::started("alpha");
    let submit = |checkout: serde_json::Value| {
        let body = json!({"project": "p", "command": ["true"], "checkout": checkout});
        node.http("POST /jobs", body.to_string().as_bytes()).json()["error"]["message"].clone()
    };
    let content = "0".repeat(64);
    let diff = json!({"commit": "0123abcd", "diff": {"content": content, "size": 1}});
    assert_eq!(submit(diff), "the bundle has no file with the checkout's diff");
    assert_eq!(submit(json!({"commit": "main"})), "the checkout's commit is no hash");
}

#[test]
fn what_a_job_uses_is_read_while_it_runs() {
    let node = Node::started("alpha");
    let id = node.submit(&[], &["sh", "-c", "while [ ! -e stop ]; do :; done; sleep 0"]);
    let path = format!("/jobs/{id}/series/system%2Fcpu");
    let deadline = std::time::Instant::now() + harness::DEADLINE;
    let live = loop {
        let answer = node.http(&format!("GET {path}"), b"");
        if answer.status == 200 {
            break answer.json();
        }
        assert!(std::time::Instant::now() < deadline, "{answer:?}");
    };
    assert!(live["points"][0][2].as_f64().is_some_and(|cores| cores > 0.0 && cores < 64.0), "{live}");
    let shown = node.json(&["job", "show", &id]);
    assert!(shown["metrics"].is_null() && shown["system"].is_null(), "told in the end: {shown:#}");
    node.ok(&["stop", &id]);
    node.until(&["job", "show", &id], "/state", &json!("stopped"));
    let shown = node.json(&["job", "show", &id]);
    let system = &shown["system"];
    assert!(system["system/memory_bytes"]["max"].as_u64() > Some(100_000), "{shown:#}");
    assert!(system["system/cpu"]["mean"].as_f64() > Some(0.0) && shown["metrics"].is_null(), "{shown:#}");
    let text = node.ok(&["job", "show", &id]);
    assert!(text.contains("cpu: mean ") && text.contains("memory: mean "), "{text}");
    assert_eq!(node.http(&format!("GET {path}"), b"").status, 200, "sealed, too");
}

/// A job with a parameter and a metric of `points` points.
fn tracked(node: &Node, lr: f64, points: u32) -> String {
    let script = format!(
        "echo '[\"p\",\"lr\",{lr}]' >> $FNODE_TRACK; i=0; while [ $i -lt {points} ]; do \
         echo \"[\\\"m\\\",\\\"loss\\\",$i.5,null,1700000000]\"; i=$((i+1)); done >> $FNODE_TRACK; \
         echo '[\"m\",\"bad\",{{\"f\":\"nan\"}},null,1]' >> $FNODE_TRACK"
    );
    let id = node.submit(&["--name", "n"], &["sh", "-c", &script]);
    node.completed(&id);
    id
}

#[test]
fn jobs_are_compared_by_what_differs() {
    let node = Node::started("alpha");
    let dir = node.file("project");
    write(&dir.join("same.txt"), "same\n");
    let submit = |code: &str, epochs: &str| {
        write(&dir.join("train.sh"), code);
        let args = ["submit", dir.to_str().unwrap(), "--project", "p", "--params", epochs, "--", "sh", "train.sh"];
        let id = node.json(&args)["id"].as_str().unwrap().to_owned();
        node.completed(&id);
        id
    };
    let (one, two) =
        (submit("true\n", "{\"epochs\": 1, \"lr\": 2}"), submit("false || true\n", "{\"epochs\": 3, \"lr\": 2}"));
    node.ok(&["job", "tag", &two, "best"]);
    let told = node.json(&["job", "compare", &one, &two]);
    assert_eq!(told["jobs"], json!([one, two]));
    let row = |told: &serde_json::Value, name: &str| {
        told["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).map(|row| row["values"].clone())
    };
    assert_eq!(row(&told, "params.epochs"), Some(json!([1, 3])));
    assert_eq!(row(&told, "tags.best"), Some(json!([null, ""])));
    assert!(row(&told, "file train.sh").is_some() && row(&told, "file same.txt").is_none(), "{told:#}");
    assert_eq!((row(&told, "params.lr"), row(&told, "user")), (None, None));
    let all = node.json(&["job", "compare", &one, &two, "--all"]);
    assert_eq!((row(&all, "params.lr"), row(&all, "user")), (Some(json!([2, 2])), Some(json!(["tester", "tester"]))));
    let text = node.ok(&["job", "compare", &one, &two]);
    assert!(text.starts_with("WHAT") && text.contains("params.epochs"), "{text}");
    assert_eq!(node.run(&["job", "compare", &one]).code, Some(2));
}

#[test]
fn jobs_and_points_are_exported() {
    let node = Node::started("alpha");
    let id = tracked(&node, 0.5, 6_000);
    let array = node.submit(&["--array", "1-3", "--name", "a,b"], &["true"]);
    node.completed(&array);
    let text = node.ok(&["export"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "a line of titles, one job, three of the array: {text}");
    assert!(lines[0].starts_with("job,project,name,") && lines[0].ends_with("metrics.bad,metrics.loss,params.lr"));
    assert!(lines[1].starts_with(&format!("{array}/1,test,\"a,b\",tester,completed,0,")), "{text}");
    assert!(lines[4].starts_with(&id) && lines[4].ends_with("NaN,5999.5,0.5"), "{text}");
    let out = node.file("jobs.jsonl");
    let done = node.ok(&["export", "--format", "json", "--name", "n", "--out", out.to_str().unwrap()]);
    assert_eq!(done, format!("1 row of jobs are in {}\n", out.display()));
    let row: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((&row["metrics.bad"], &row["params.lr"], &row["exit_code"]), (&json!("NaN"), &json!(0.5), &json!(0)));
    assert!(row["hostname"].is_string() && row["submitted_unix_ms"].is_u64(), "{row}");
    let parquet = node.file("jobs.parquet");
    node.ok(&["export", "--format", "parquet", "--out", parquet.to_str().unwrap()]);
    let bytes = std::fs::read(&parquet).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let points = node.ok(&["export", "--series", "--name", "n"]);
    assert_eq!(points.lines().count(), 6_002, "every point, and the titles");
    assert!(points.contains(&format!("\n{id},loss,5999,1700000000.0,5999.5,\n")), "{}", &points[..300]);
    node.refused(&["export", "--out", "/no/such/dir/x"], 1, "cannot write /no/such/dir/x");
}

#[test]
fn an_export_whose_reader_leaves_ends_quietly() {
    let node = Node::started("alpha");
    tracked(&node, 1.0, 20_000);
    let command = format!("{} export --series | head -n 1", env!("CARGO_BIN_EXE_fnode"));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &command]).env("FNODE_HOME", node.home());
    let ran = shell.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "job,key,step,time,value,text\n");
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
}

#[test]
fn points_are_followed_while_they_come() {
    let node = Node::started("alpha");
    let id = node.submit(
        &[],
        &[
            "sh",
            "-c",
            "for i in 1 2 3; do echo \"[\\\"m\\\",\\\"loss\\\",$i,null,1]\" >> $FNODE_TRACK; sleep 0.7; done",
        ],
    );
    let answer = node.http(&format!("GET /jobs/{id}/series/loss/events"), b"");
    assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
    let text = String::from_utf8(answer.body).unwrap();
    let pages: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?.trim()).ok()).collect();
    let values: Vec<i64> = pages
        .iter()
        .flat_map(|page| page["points"].as_array().unwrap().iter().map(|point| point[2].as_i64().unwrap()))
        .collect();
    assert_eq!(values, [1, 2, 3], "{text}");
    assert!(pages.len() > 1 && text.contains("id: 3"), "as they came: {text}");
    let rest = node.http(&format!("GET /jobs/{id}/series/loss/events?after=2"), b"");
    assert!(String::from_utf8_lossy(&rest.body).contains("[[2,"), "{rest:?}");
    assert_eq!(node.http("GET /jobs/0193/series/loss/events", b"").status, 404);
}

/// Text and truth values as they were told, a record that has no room for all metrics, names that are the node's.
#[test]
fn a_series_is_what_was_told_however_many_there_are() {
    let node = Node::started("alpha");
    let script = "for v in '\"warm\"' true 0.5 '{\"f\":\"nan\"}' '\"cold, \\\"x\\\"\"' false; do \
        echo \"[\\\"m\\\",\\\"phase\\\",$v,null,1]\"; done >> $FNODE_TRACK";
    let small = node.submit(&["--name", "small"], &["sh", "-c", script]);
    node.completed(&small);
    let many = "; seq -f %05g 0 899 | sed 's|.*|[\"m\",\"layer/&/a-rather-long-name-of-a-weight\",7,null,1]|' >> $FNODE_TRACK; \
        echo '[\"m\",\"system/cpu\",99,null,1]' >> $FNODE_TRACK; echo '[\"p\",\"lr\",0.1]' >> $FNODE_TRACK";
    let id = node.submit(&["--name", "n"], &["sh", "-c", &format!("{script}{many}")]);
    node.completed(&id);
    let shown = node.json(&["job", "show", &id]);
    let more = shown["more_metrics"].as_u64().unwrap();
    assert_eq!(shown["metrics"].as_object().unwrap().len() as u64 + more, 901, "{more}");
    assert!(more > 100 && shown["params"]["lr"] == json!(0.1), "{shown}");
    assert_eq!((&shown["reserved"], &shown["metrics"]["phase"]["last"]), (&json!(1), &json!(false)));
    let text = node.ok(&["job", "show", &id]);
    assert!(text.contains(&format!("{more} more metrics: beyond the 64 KiB of a record")), "{text}");
    assert!(text.contains("1 point named system/…: reserved for what the node reads"), "{text}");
    let points = |key: &str| node.http(&format!("GET /jobs/{id}/series/{key}"), b"").json()["points"].clone();
    let values: Vec<_> = points("phase").as_array().unwrap().iter().map(|point| point[2].clone()).collect();
    assert_eq!(json!(values), json!(["warm", true, 0.5, {"f": "nan"}, "cold, \"x\"", false]));
    let last = "layer/00899/a-rather-long-name-of-a-weight";
    assert!(!shown["metrics"].as_object().unwrap().contains_key(last));
    assert_eq!(points(&last.replace('/', "%2F"))[0][2], 7);
    let names = node.http(&format!("GET /jobs/{id}/series?after=layer/00898/a-rather-long-name-of-a-weight"), b"");
    assert_eq!(names.json(), json!({"series": [{"key": last, "count": 1}, {"key": "phase", "count": 6}], "next": ""}));
    let csv = node.ok(&["export", "--series", "--name", "n"]);
    let is_ours = |line: &&str| line.contains(",layer/") || line.contains(",phase,");
    assert_eq!(csv.lines().filter(is_ours).count(), 906);
    assert!(csv.contains(&format!("\n{id},phase,0,1.0,,warm\n{id},phase,1,1.0,1,true\n{id},phase,2,1.0,0.5,\n")));
    assert!(csv.contains(&format!("\n{id},phase,3,1.0,NaN,\n{id},phase,4,1.0,,\"cold, \"\"x\"\"\"\n")), "quoted");
    let lines = node.ok(&["export", "--series", "--name", "small", "--format", "json"]);
    let phase = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let phase: Vec<_> = phase.filter(|row| row["key"] == "phase").collect();
    assert_eq!((&phase[0]["text"], phase[0].get("value"), &phase[5]["value"]), (&json!("warm"), None, &json!(0)));
    let out = node.file("points.parquet");
    node.ok(&["export", "--series", "--name", "small", "--format", "parquet", "--out", out.to_str().unwrap()]);
    use parquet::record::RowAccessor as _;
    let reader = parquet::file::reader::SerializedFileReader::new(std::fs::File::open(&out).unwrap()).unwrap();
    let rows = parquet::file::reader::FileReader::get_row_iter(&reader, None).unwrap().map(Result::unwrap);
    let rows: Vec<_> = rows.filter(|row| row.get_string(1).unwrap() == "phase").collect();
    assert!(rows[0].get_double(4).is_err() && rows[0].get_string(5).unwrap() == "warm");
    assert!(rows[2].get_string(5).is_err() && rows[2].get_double(4).unwrap() == 0.5);
}

/// What `fnode job diff` prints can be applied: binary and deleted files, too. What does not travel is not claimed.
#[test]
fn changes_of_every_kind_come_back_and_no_others_are_claimed() {
    let node = Node::started("alpha");
    let repo = node.file("repo");
    write(&repo.join("code/train.py"), "one\n");
    write(&repo.join("code/gone.py"), "gone\n");
    write(&repo.join("code/token.txt"), "s3cret\n");
    write(&repo.join("code/.fnodeignore"), "token.txt\n");
    write(&repo.join("beside.py"), "one\n");
    std::fs::write(repo.join("code/bin.dat"), [0, 1, 2]).unwrap();
    if git(&repo, &["init", "-q"]).is_none() {
        eprintln!("skipped: there is no git here");
        return;
    }
    for words in
        [&["config", "user.name", "a"][..], &["config", "user.email", "a@b"], &["add", "-A"], &["commit", "-qm", "x"]]
    {
        git(&repo, words).unwrap();
    }
    let clone = node.file("clone");
    git(&repo, &["clone", "-q", ".", clone.to_str().unwrap()]).unwrap();
    let code = repo.join("code");
    let submit = || {
        let args = ["submit", code.to_str().unwrap(), "--project", "test", "--", "true"];
        let id = node.json(&args)["id"].as_str().unwrap().to_owned();
        let dirty = node.json(&["job", "show", &id])["checkout"]["is_dirty"].clone();
        (id, dirty)
    };
    write(&repo.join("beside.py"), "two\n");
    std::fs::remove_file(code.join("token.txt")).unwrap();
    let (id, dirty) = submit();
    assert_eq!(dirty, json!(false), "what is changed does not travel");
    node.refused(&["job", "diff", &id], 1, &format!("job {id} was submitted without uncommitted changes"));
    write(&code.join("new.py"), "new\n");
    let (id, dirty) = submit();
    assert_eq!(dirty, json!(true));
    node.refused(&["job", "diff", &id], 1, &format!("the only changes of job {id} are new files"));
    write(&code.join("train.py"), "two\n");
    std::fs::write(code.join("bin.dat"), [0, 9, 9, 9]).unwrap();
    std::fs::remove_file(code.join("gone.py")).unwrap();
    let (id, _) = submit();
    let diff = node.ok(&["job", "diff", &id]);
    assert!(!diff.contains("s3cret") && !diff.contains("beside"), "{diff}");
    write(&node.file("changes"), &diff);
    git(&clone, &["apply", "--directory=code", node.file("changes").to_str().unwrap()]).unwrap();
    assert_eq!(std::fs::read(clone.join("code/bin.dat")).unwrap(), [0, 9, 9, 9]);
    assert_eq!(std::fs::read_to_string(clone.join("code/train.py")).unwrap(), "two\n");
    assert!(!clone.join("code/gone.py").exists() && clone.join("code/token.txt").exists());
}
