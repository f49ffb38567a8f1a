//! Into a cluster with a ticket, and only with a good one. Wrong ones are refused in one line that says what to do.

mod lab;

use std::str::FromStr as _;

use lab::output::{list, text};
use lab::{Lab, Launch, READY_MAX, SOON, wait_for};
use proto::ticket::Ticket;

#[test]
fn a_cluster_of_one_brings_its_finished_jobs_along() {
    let mut lab = Lab::start(2);
    let lone = lab.add_apart(&Launch::default());
    lab.launch(lone, None);
    lab.wait_until_ready(lone);
    let done = lab.submit_id(lone, &[], "echo done before; exit 4");
    lab.wait_ended(lone, &done, SOON);
    assert_eq!(lab.fnode(0, &["job", "show", &done]).code, 1, "another cluster's job is not known");
    lab.shutdown(lone);

    let ticket = lab.invite(1);
    lab.launch(lone, Some(&ticket));
    lab.wait_until_ready(lone);
    lab.wait_for_members(&[0, 1, lone]);
    for reader in 0..3 {
        let word = lab.wait_ended(reader, &done, SOON);
        assert_eq!(word["ending"]["exit_code"], 4, "{word}");
        assert_eq!(lab.logs(reader, &done), "done before\n");
    }
    // It stays a member without a ticket.
    lab.kill_host(lone);
    lab.restart(lone);
    lab.wait_for_members(&[0, 1, lone]);
}

#[test]
fn nodes_on_any_port_find_each_other_again_after_all_were_away() {
    let mut lab = Lab::start(2);
    let before = [lab.listen(0).to_owned(), lab.listen(1).to_owned()];
    for node in [0, 1] {
        lab.kill_host(node);
        lab.listen_anywhere(node);
    }
    for node in [0, 1] {
        lab.restart(node);
    }
    lab.wait_for_members(&[0, 1]);
    assert_eq!([lab.listen(0), lab.listen(1)], before, "the last port was free");
}

#[test]
fn a_ticket_that_opens_nothing_is_refused_in_one_line() {
    let mut lab = Lab::start(1);
    let good = lab.invite(0);
    let stranger = lab.add_apart(&Launch::default());
    lab.launch_refused(stranger, Some("hello")).refused(&["fnode invite"]);
    lab.launch_refused(stranger, Some("")).refused(&["fnode invite"]);
    lab.launch_refused(stranger, Some(&good[..good.len() - 1])).refused(&["torn"]);

    let ticket = Ticket::from_str(&good).expect("fnode prints tickets");
    let mut wrong = ticket.clone();
    wrong.secret.key[0] ^= 1;
    lab.launch_refused(stranger, Some(&wrong.to_text().unwrap())).refused(&["cannot join"]);
    let mut expired = ticket.clone();
    expired.expires_unix_ms = 1;
    lab.launch_refused(stranger, Some(&expired.to_text().unwrap())).refused(&["expired", "fnode invite"]);
    let mut nobody = ticket;
    nobody.addrs = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
    lab.launch_refused(stranger, Some(&nobody.to_text().unwrap())).refused(&["cannot join"]);

    // Nothing of it is left: the same directory joins with the good ticket.
    lab.launch(stranger, Some(&good));
    lab.wait_until_ready(stranger);
    lab.wait_for_members(&[0, stranger]);
}

#[test]
fn a_member_of_a_cluster_with_others_does_not_join_another() {
    let mut lab = Lab::start(2);
    let other = lab.add_apart(&Launch::default());
    lab.launch(other, None);
    lab.wait_until_ready(other);
    let ticket = lab.invite(other);
    lab.shutdown(1);
    lab.launch_refused(1, Some(&ticket)).refused(&["cannot join", "--home"]);
    lab.restart(1);
    lab.wait_for_members(&[0, 1]);
    assert_eq!(lab.alive(other), ["n2"]);
}

#[test]
fn a_directory_or_a_port_that_is_taken_is_refused_in_one_line() {
    let mut lab = Lab::start(1);
    let home = lab.home(0).to_str().unwrap().to_owned();
    lab.launch_refused(0, None).refused(&[home.as_str()]);
    let port = lab.listen(0).to_owned();
    let second = lab.add_apart(&Launch { args: vec!["--listen".to_owned(), port.clone()], ..Launch::default() });
    let number = port.rsplit(':').next().unwrap();
    lab.launch_refused(second, None).refused(&[number]);
    let file = lab.path("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("home");
    lab.fnode(0, &["status"]).ok();
    let args = ["start", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-mdns", "--home"];
    lab.run(0, &[&args[..], &[below.to_str().unwrap()]].concat()).refused(&[below.to_str().unwrap()]);
}

#[test]
fn a_removed_node_is_shut_out_and_the_others_go_on() {
    let mut lab = Lab::start(3);
    let old_ticket = lab.invite(0);
    lab.fnode(0, &["node", "remove", "n2", "--yes"]).ok();
    for node in 0..2 {
        wait_for("the removed node is gone from the list", READY_MAX, || {
            let nodes = lab.json(node, &["node", "list"]);
            list(&nodes, "nodes").iter().all(|word| text(word, "name") != "n2").then_some(())
        });
    }
    lab.wait_for_members(&[0, 1]);
    wait_for("the removed node sees nobody", READY_MAX, || {
        let others = lab.alive(2);
        others.iter().all(|name| name == "n2").then_some(())
    });
    // It was told: what is submitted there would run nowhere else.
    let told = ["this node was removed from cluster", "--home"];
    lab.fnode(2, &["submit", "--no-bundle", "--", "true"]).refused(&told);
    // A secret given out before does not let it back in.
    lab.kill_host(2);
    lab.launch_refused(2, Some(&old_ticket)).refused(&[]);
    let job = lab.submit_id(1, &[], "exit 6");
    assert_eq!(lab.wait_ended(0, &job, SOON)["ending"]["exit_code"], 6);
    // The rotated secret is what restarted members, and new ones, come in with.
    lab.kill_host(1);
    lab.restart(1);
    lab.wait_for_members(&[0, 1]);
    let new = lab.add(&Launch::default());
    lab.wait_for_members(&[0, 1, new]);
}
