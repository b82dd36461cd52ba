//! What the tests of the binary share.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread with a network of its own, which has nothing but loopback; processes that it starts are in
/// there, too.
pub(crate) fn in_own_network<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
            let status = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap();
            assert!(status.success());
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
