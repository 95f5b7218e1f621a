//! A device goes, and comes back, under threads that use it.

use alloc::sync::Arc;

use fs::RemovalError;
use kernel::machine::{Machine, RemoveFailure};
use kernel::pmem::DeviceState;
use kernel::thread;
use mm::addr::PAGE_SIZE;
use mm::aspace::FaultError;
use mm::sync::{Wait, sleep_us};

use super::fixture::{Map, fresh};
use crate::case;

const PAGES: u64 = 16;

/// Loads until it gets an error; returns the error. Every byte loaded before is the file's.
fn load_until_refused(map: &Map, byte: u8) -> FaultError {
    let mut at = 0;
    loop {
        match map.load(at % (PAGES * PAGE_SIZE)) {
            Ok(found) => assert_eq!(found, byte),
            Err(why) => return why,
        }
        at += PAGE_SIZE + 1;
    }
}

/// Stores until it gets an error; returns the error.
fn store_until_refused(map: &Map, byte: u8) -> FaultError {
    let mut at = 0;
    loop {
        if let Err(why) = map.store(at % (PAGES * PAGE_SIZE), byte) {
            return why;
        }
        at += PAGE_SIZE + 1;
    }
}

case! {
    seconds = 60,
    /// Loads and stores in loops, a pin, and the removal: errors, no panic, and afterwards all is there.
    fn users_of_a_removed_device_get_errors_and_its_contents_are_kept() {
        let machine = Machine::discover();
        let device = &machine.pmem.devices[0];
        drop(fresh());
        for round in 1..6 {
            let fs = machine.mount(device).expect("mount");
            if let Ok(last) = fs.open("/f") {
                let mut bytes = alloc::vec![0; (PAGES * PAGE_SIZE) as usize];
                assert_eq!(fs.read(&last, 0, &mut bytes), Ok(bytes.len()));
                assert!(bytes.iter().all(|b| *b == round - 1));
                drop(last);
                fs.unlink("/f").expect("unlink");
            }
            let file = fs.create_sized("/f", 0o644, PAGES * PAGE_SIZE).expect("create");
            fs.write(&file, 0, &alloc::vec![round; (PAGES * PAGE_SIZE) as usize]).expect("write");
            let map = Arc::new(Map::new(&file, PAGES));
            let (load, store) = (map.clone(), map.clone());
            let loads = thread::spawn("loads", move || load_until_refused(&load, round)).expect("a thread");
            let stores = thread::spawn("stores", move || store_until_refused(&store, round)).expect("a thread");
            let pinned = map.pin(3).expect("a pin");
            sleep_us(2_000);
            let refused = machine.remove_device(device, &Wait::until(0));
            let Err(RemoveFailure::Unfinished { error: RemovalError::Held { page, .. }, .. }) = refused else {
                panic!("removed under a pin: {refused:?}");
            };
            assert_eq!((page.owner.map(|o| o.index), page.counts.mapped), (Some(3), 0));
            assert_eq!((loads.join(), stores.join()), (FaultError::Dying, FaultError::Dying));
            let unpin = thread::spawn("unpin", move || {
                sleep_us(3_000);
                drop(pinned);
            });
            let removed = machine.remove_device(device, &Wait::for_us(5_000_000)).expect("the pin ends");
            assert!(removed.file_system && machine.mounted().is_none());
            assert_eq!(device.state(), DeviceState::Removed);
            assert!(device.pgmap().is_none());
            unpin.expect("a thread").join();
            assert_eq!(map.load(0), Err(FaultError::Dying));
            machine.add_device(device).expect("it is removed");
        }
        let fs = machine.mount(device).expect("mount");
        assert_eq!(fs.stat("/f").expect("it is there").size, PAGES * PAGE_SIZE);
        drop(fs);
        machine.umount().expect("nobody uses it");
    }
}

case! {
    seconds = 30,
    /// The last unpin, in a thread of its own, ends a file without a name: nobody calls the file system afterwards.
    fn the_worker_ends_a_file_when_its_last_pin_goes() {
        let machine = Machine::discover();
        let device = &machine.pmem.devices[0];
        drop(fresh());
        let fs = machine.mount(device).expect("mount");
        let file = fs.create_sized("/f", 0o644, PAGES * PAGE_SIZE).expect("create");
        let map = Map::new(&file, PAGES);
        let pinned = map.pin(5).expect("a pin");
        fs.unlink("/f").expect("unlink");
        drop((map, file));
        let free = fs.statfs();
        assert_eq!(free.orphans, 1);
        let unpin = thread::spawn("unpin", move || drop(pinned));
        unpin.expect("a thread").join();
        for _ in 0..1000 {
            if fs.statfs().orphans == 0 && fs.statfs().quarantined == 0 {
                break;
            }
            sleep_us(1_000);
        }
        let now = fs.statfs();
        assert_eq!((now.orphans, now.quarantined), (0, 0));
        assert!(now.space.free >= free.space.free + PAGES);
        drop(fs);
        machine.umount().expect("nobody uses it");
    }
}
