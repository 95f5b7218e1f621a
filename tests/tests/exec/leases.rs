//! Long-term pins from the shell: refused without a lease; with one, asked, and named when they do not let go.

use libtest_mimic::Failed;

use crate::Check;
use crate::script::{check, expect};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("leases::without_one_a_long_pin_is_refused", refused),
    ("leases::a_good_holder_lets_go_when_asked", good),
    ("leases::a_stubborn_holder_is_named", stubborn),
];

fn refused() -> Result<(), Failed> {
    let told = expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("pin --longterm /f 0 4K", "error: needs a lease"),
            (
                "pin --longterm /f 0 4K --json",
                "error: \"kind\":\"needs_lease\"",
            ),
            (
                "pin --revoke /f 0 4K",
                "error: --revoke goes with --longterm",
            ),
            (
                "pin --longterm --grace 5 /f 0 4K",
                "error: --grace goes with --revoke",
            ),
            (
                "pin --longterm --revoke=no /f 0 4K",
                "error: there is no option --revoke=no",
            ),
            ("pins", "no pins"),
            ("page /f --json", "\"pinned\":0"),
            ("truncate /f 0 --nowait", "16 blocks freed"),
        ],
    )?;
    let says = |n: usize, text: &str| told.answers[n].contains(text);
    check("why", says(3, "could never be taken back"), &told)?;
    check("what to do", says(3, "add --revoke"), &told)
}

fn good() -> Result<(), Failed> {
    let told = expect(
        &[],
        0,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("pin --longterm --revoke --grace 5000 /f 0 8K", "pin 1"),
            ("pins --json", "\"lease\":\"drop\""),
            ("truncate /f 0", "asks pin 1 to let go within 5"),
            ("pins", "no pins"),
            ("create /g 64K", ""),
            ("pin --longterm --revoke=drop /g 0 4K", "pin 2"),
            ("punch /g 0 4K --json", "\"event\":\"revoking\""),
            ("pages --json", "\"pinned\":0"),
        ],
    )?;
    let pin = told.object(4)?;
    let as_given =
        pin["grace_us"] == 5_000_000 && pin["revoked"] == false && pin["holder"] == "pin 1";
    check("the lease is listed", as_given, &told)?;
    let steps = told.objects(9)?;
    let named = steps.len() == 2 && steps[0]["holder"] == "pin 2" && steps[1]["holder"] == "pin 2";
    check("the holder is named", named, &told)?;
    check(
        "it was asked and waited for",
        steps[1]["retries"] == 1,
        &told,
    )
}

fn stubborn() -> Result<(), Failed> {
    let told = expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("pin --longterm --revoke=ignore --grace 30 /f 0 4K", "pin 1"),
            (
                "truncate /f 0 --timeout 100 --json",
                "error: \"kind\":\"timed_out\"",
            ),
            ("pins --json", "\"revoked\":true"),
            ("truncate /f 0 --timeout 10", "error: held by pin 1"),
            ("truncate /f 0 --json &", "\"job\":1"),
            ("sleep 60", ""),
            ("jobs --json", "running"),
            ("unpin 1", ""),
            ("wait", "truncate /f 0"),
            ("stat /f --json", "\"size\":0"),
        ],
    )?;
    let steps = told.objects(4)?;
    let events: Vec<_> = steps.iter().filter_map(|s| s["event"].as_str()).collect();
    check(
        "asked, then named",
        events == ["revoking", "overdue"],
        &told,
    )?;
    let error = &steps[2]["error"];
    check("the error names it", error["holder"] == "pin 1", &told)?;
    let named_again = told
        .ran
        .stdout
        .lines()
        .any(|l| l.contains("overdue") && l.contains("\"job\":1"));
    check("who waits on is told too", named_again, &told)?;
    check("asked once", !told.answers[6].contains("asks"), &told)
}
