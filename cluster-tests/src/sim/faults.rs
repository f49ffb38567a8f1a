//! What goes wrong, when, and how it is set right again.

use std::collections::BTreeSet;

use proto::core_io::Input;
use proto::event::Event;
use proto::message::Accepting;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::disk::Disk;
use super::host::Host;
use super::invariants::Violation;
use super::runner::Runner;
use super::world::{Happening, World};

/// One fault, or its end.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    DaemonStarts { host: usize },
    DaemonDies,
    HostDies,
    HostReturns { host: usize },
    StreamBreaks,
    Partition,
    Heal,
    Forgery,
    OwnerActs,
    OwnersRelent,
    RemoveGone,
}

impl World {
    pub(crate) fn plan_faults(&mut self) {
        for (mean_us, fault) in [
            (self.plan.break_us, Fault::StreamBreaks),
            (self.plan.partition_us, Fault::Partition),
            (self.plan.daemon_crash_us, Fault::DaemonDies),
            (self.plan.host_crash_us, Fault::HostDies),
            (self.plan.forge.then_some(3_000_000), Fault::Forgery),
            (self.plan.owners.then_some(4_000_000), Fault::OwnerActs),
        ] {
            let Some(mean_us) = mean_us else { continue };
            let mut at = 0;
            loop {
                at += self.rng.random_range(mean_us / 4..mean_us * 7 / 4);
                if at >= self.plan.phase_one_us {
                    break;
                }
                self.schedule(at, Happening::Fault(fault.clone()));
            }
        }
        if self.plan.disk_loss || self.plan.gone {
            let at = self.rng.random_range(self.plan.phase_one_us / 4..self.plan.phase_one_us);
            self.schedule(at, Happening::Fault(Fault::HostDies));
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) -> Result<(), Violation> {
        self.trouble_us = self.now_us;
        match fault {
            Fault::DaemonStarts { host } => return self.start_daemon(host),
            Fault::HostReturns { host } => {
                self.hosts[host].powered = true;
                return self.start_daemon(host);
            }
            Fault::OwnersRelent => return self.owners_relent(),
            // Whatever was planned for phase one and comes late is not done.
            _ if self.faults_over => {}
            Fault::DaemonDies => return self.kill_any(false),
            Fault::HostDies => return self.kill_any(true),
            Fault::StreamBreaks => self.break_any_stream(),
            Fault::Partition => self.partition(),
            Fault::Heal => self.heal(),
            Fault::Forgery => self.forge(),
            Fault::OwnerActs => return self.owner_acts(),
            Fault::RemoveGone => return self.remove_gone(),
        }
        Ok(())
    }

    pub(crate) fn start_daemon(&mut self, host: usize) -> Result<(), Violation> {
        let machine = &mut self.hosts[host];
        if machine.daemon.is_some() || !machine.powered || machine.gone {
            return Ok(());
        }
        machine.start(self.now_us, &mut self.rng);
        let life = machine.life;
        self.tell(|| format!("{host}: daemon starts"));
        let adopt_us = if self.rng.random_range(0..6) == 0 { 3_000_000 } else { 60_000 };
        let adopt_us = self.rng.random_range(500..adopt_us);
        self.after(adopt_us, Happening::Adopt { host, life });
        for peer in (0..self.hosts.len()).filter(|&peer| peer != host) {
            let after = self.rng.random_range(100..80_000);
            self.after(after, Happening::Dial { one: host, other: peer });
        }
        self.step(host, Input::Tick)
    }

    fn kill_any(&mut self, whole_host: bool) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].daemon.is_some()).collect();
        match up.choose(&mut self.rng) {
            Some(&host) => self.kill(host, whole_host),
            None => Ok(()),
        }
    }

    /// A daemon or a whole host dies, and comes back in a while.
    pub(crate) fn kill(&mut self, host: usize, whole_host: bool) -> Result<(), Violation> {
        self.trouble_us = self.now_us;
        self.tell(|| format!("{host}: {} dies", if whole_host { "host" } else { "daemon" }));
        self.coverage.count(if whole_host { "host crash" } else { "daemon crash" });
        let pending = self.hosts[host].disk.pending_entries();
        let survive = self.rng.random_range(0..=pending);
        let (kept, torn) = self.hosts[host].disk.crash(survive);
        self.hosts[host].daemon = None;
        if torn {
            self.coverage.count("batch torn by a crash");
        }
        self.on_durable(host, &kept)?;
        if whole_host {
            self.hosts[host].powered = false;
            self.checks.outcome.on_host_died(host, &self.hosts[host].runner);
            self.hosts[host].runner = Runner::default();
            self.lose_what_is_to_be_lost(host);
        } else {
            self.hosts[host].runner.forget_preparing();
        }
        for peer in (0..self.hosts.len()).filter(|&peer| peer != host) {
            // A dead daemon's kernel says so at once; a dead host says nothing.
            let notice_us = if whole_host { self.rng.random_range(1_000_000..12_000_000) } else { 2_000 };
            self.cut(host, peer, notice_us);
        }
        self.checks.accepted.check(&self.hosts)?;
        let away_us = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(10_000..300_000),
            1..3 => self.rng.random_range(300_000..5_000_000),
            _ => self.rng.random_range(5_000_000..45_000_000),
        };
        let back = if whole_host { Fault::HostReturns { host } } else { Fault::DaemonStarts { host } };
        self.after(away_us, Happening::Fault(back));
        Ok(())
    }

    fn lose_what_is_to_be_lost(&mut self, host: usize) {
        let others: Vec<&Host> =
            self.hosts.iter().enumerate().filter(|(at, _)| *at != host).map(|(_, host)| host).collect();
        if self.plan.gone && !self.hosts.iter().any(|host| host.gone) {
            self.tell(|| format!("{host}: is gone for good"));
            self.coverage.count("host gone for good");
            self.hosts[host].gone = true;
            self.forget_disk(host);
            let after = self.rng.random_range(1_000_000..10_000_000);
            self.after(after, Happening::Fault(Fault::RemoveGone));
        } else if self.plan.disk_loss && others.iter().all(|other| !other.lost_disk) && !self.hosts[host].lost_disk {
            self.tell(|| format!("{host}: its disk is lost"));
            self.coverage.count("disk lost");
            self.forget_disk(host);
        }
    }

    fn forget_disk(&mut self, host: usize) {
        self.hosts[host].lost_disk = true;
        self.hosts[host].disk = Disk::default();
        self.checks.accepted.on_disk_lost(host);
    }

    fn remove_gone(&mut self) -> Result<(), Violation> {
        let gone = self.hosts.iter().find(|host| host.gone).map(|host| host.id);
        let up = (0..self.hosts.len()).find(|&host| self.hosts[host].daemon.is_some());
        let (Some(node), Some(host)) = (gone, up) else { return Ok(()) };
        self.coverage.count("member removed");
        let request = self.next_request();
        self.step(host, Input::Write { request, event: Event::MemberRemoved { node } })
    }

    fn break_any_stream(&mut self) {
        let (one, other) = (self.rng.random_range(0..self.hosts.len()), self.rng.random_range(0..self.hosts.len()));
        if one != other {
            self.coverage.count("stream broken");
            let notice_us = self.rng.random_range(10..500_000);
            self.cut(one, other, notice_us);
        }
    }

    fn partition(&mut self) {
        self.coverage.count("partition");
        let apart: BTreeSet<usize> = (0..self.hosts.len()).filter(|_| self.rng.random_bool(0.4)).collect();
        self.tell(|| format!("partition: {apart:?} from the rest"));
        self.network.apart = apart;
        for one in 0..self.hosts.len() {
            for other in one + 1..self.hosts.len() {
                if self.network.is_apart(one, other) {
                    let notice_us = self.rng.random_range(500_000..10_000_000);
                    self.cut(one, other, notice_us);
                }
            }
        }
        let length_us = self.rng.random_range(500_000..20_000_000);
        self.after(length_us, Happening::Fault(Fault::Heal));
    }

    fn heal(&mut self) {
        self.tell(|| "the partition heals".to_owned());
        self.network.apart.clear();
    }

    fn cut(&mut self, one: usize, other: usize, notice_us: u64) {
        let Some(epoch) = self.network.cut(one, other) else { return };
        for (host, peer) in [(one, other), (other, one)] {
            let after = self.rng.random_range(notice_us / 2..=notice_us);
            self.after(after, Happening::Notice { host, peer, epoch });
        }
    }

    /// One side notices that its stream is broken, and dials again.
    pub(crate) fn on_notice(&mut self, host: usize, peer: usize, epoch: u64) -> Result<(), Violation> {
        if self.network.epoch(host, peer) != epoch || self.network.is_open(host, peer) {
            return Ok(());
        }
        let after = self.rng.random_range(1_000..300_000);
        self.after(after, Happening::Dial { one: host, other: peer });
        let peer = self.hosts[peer].id;
        self.step(host, Input::Disconnected(peer))
    }

    pub(crate) fn on_dial(&mut self, one: usize, other: usize) -> Result<(), Violation> {
        if self.network.is_open(one, other) || self.hosts[one].daemon.is_none() || self.hosts[other].gone {
            return Ok(());
        }
        let again_us = self.rng.random_range(200_000..1_200_000);
        if self.network.is_apart(one, other) || !self.hosts[other].powered {
            self.after(again_us, Happening::Dial { one, other });
            return Ok(());
        }
        if self.hosts[other].daemon.is_none() {
            self.coverage.count("refused connection");
            self.after(again_us, Happening::Dial { one, other });
            let refused = self.hosts[other].id;
            return self.step(one, Input::Refused(refused));
        }
        self.network.open(one, other);
        let ids = (self.hosts[one].id, self.hosts[other].id);
        self.step(one, Input::Connected(ids.1))?;
        self.step(other, Input::Connected(ids.0))
    }

    fn owner_acts(&mut self) -> Result<(), Violation> {
        let host = self.rng.random_range(0..self.hosts.len());
        let accepting = *[Accepting::Yes, Accepting::Paused].choose(&mut self.rng).expect("not empty");
        if self.rng.random_bool(0.5) {
            return self.step(host, Input::Accepting(accepting));
        }
        let node = self.hosts[self.rng.random_range(0..self.hosts.len())].id;
        let request = self.next_request();
        let drained = accepting == Accepting::Paused;
        self.step(host, Input::Write { request, event: Event::MemberDrained { node, drained } })
    }

    /// All faults end: everything that can come back does.
    pub(crate) fn end_faults(&mut self) {
        self.trouble_us = self.now_us;
        self.heal();
        for host in 0..self.hosts.len() {
            let machine = &self.hosts[host];
            if machine.gone {
                continue;
            }
            if machine.daemon.is_none() {
                let after = self.rng.random_range(1_000..500_000);
                self.after(after, Happening::Fault(Fault::HostReturns { host }));
            } else {
                let life = machine.life;
                let input = Box::new(Input::Accepting(Accepting::Yes));
                self.after(0, Happening::Feed { host, life, input });
            }
        }
        if self.plan.owners {
            self.after(2_000_000, Happening::Fault(Fault::OwnersRelent));
        }
    }

    /// Every node takes work again.
    fn owners_relent(&mut self) -> Result<(), Violation> {
        let Some(host) = (0..self.hosts.len()).find(|&host| self.hosts[host].daemon.is_some()) else { return Ok(()) };
        for node in self.hosts.iter().map(|host| host.id).collect::<Vec<_>>() {
            let request = self.next_request();
            self.step(host, Input::Write { request, event: Event::MemberDrained { node, drained: false } })?;
        }
        Ok(())
    }
}
