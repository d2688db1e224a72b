//! What programs tell their supervisor.

use thead_wire::notify::{self, Notice, STATUS_LIMIT};

/// No line means two things, nothing grows, and one that is understood is understood alone too.
pub(crate) fn run(data: &[u8]) {
    let data = &data[..data.len().min(notify::LIMIT)];
    let all: Vec<_> = notify::notices(data).collect();
    assert!(all.len() <= data.split(|byte| *byte == b'\n').count());
    for notice in all.iter().flatten() {
        if let Notice::Status(text) = notice {
            assert!(text.chars().count() <= STATUS_LIMIT && !text.contains('\n'));
        }
    }
    for bad in all.iter().filter_map(|notice| notice.as_ref().err()) {
        assert!(bad.to_string().len() < 1_000, "{bad}");
    }
    if !data.contains(&0) {
        let lines = data.split(|byte| *byte == b'\n').flat_map(notify::notices);
        assert_eq!(lines.collect::<Vec<_>>(), all);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 6] = [
        b"READY=1\nSTATUS=Processing requests...\nMAINPID=4711",
        b"RELOADING=1\nMONOTONIC_USEC=1234",
        b"STOPPING=1\nEXTEND_TIMEOUT_USEC=10000000",
        b"WATCHDOG=1",
        b"WATCHDOG=trigger\nWATCHDOG_USEC=20000000",
        b"FDSTORE=1\nFDNAME=foobar\nBARRIER=1\nERRNO=2",
    ];
    seeds.map(<[u8]>::to_vec).into()
}
