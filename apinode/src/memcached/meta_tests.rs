use super::*;

fn parse(verb: MetaVerb, line: &str) -> Result<Meta<'_>, &'static str> {
    Meta::parse(verb, line.as_bytes())
}

#[test]
fn flags_say_what_is_asked_for() {
    let meta = parse(MetaVerb::Get, " key v q c s k t f l u Oab N30 R-1 T+5 C7 E8").unwrap();
    assert_eq!(meta.key, b"key");
    assert!(meta.value && meta.quiet && meta.unique && meta.size && !meta.binary && !meta.invalidate);
    assert_eq!((meta.vivify, meta.recache, meta.exptime), (Some(30), Some(-1), Some(5)));
    assert_eq!((meta.compare, meta.new_unique), (Some(7), Some(8)));
    assert_eq!(meta.flags().next(), Some(&b"v"[..]));
    assert_eq!(meta.made_exptime(), 5);
    let meta = parse(MetaVerb::Set, "k 1 T5 MA F4294967295 I N9").unwrap();
    assert_eq!((meta.mode, meta.client_flags, meta.invalidate), (Mode::Append, u32::MAX, true));
    assert_eq!((meta.flags().count(), meta.made_exptime()), (5, 9));
    let meta = parse(MetaVerb::Count, "k D18446744073709551615 J5 M-").unwrap();
    assert_eq!((meta.delta, meta.initial, meta.down), (u64::MAX, 5, true));
    assert_eq!(parse(MetaVerb::Count, "k").map(|meta| (meta.delta, meta.down)), Ok((1, false)));
    assert!(parse(MetaVerb::Delete, "k x").unwrap().remove_value);
}

#[test]
fn a_key_may_be_in_base_64() {
    let mut decoded = b"what was there".to_vec();
    let meta = parse(MetaVerb::Get, "AP8g b").unwrap();
    assert_eq!((meta.key, meta.plain_key(&mut decoded)), (&b"AP8g"[..], &[0, 255, b' '][..]));
    // The bits beyond the last byte are not looked at.
    assert_eq!(parse(MetaVerb::Debug, "YR== b").unwrap().plain_key(&mut decoded), b"a");
    assert_eq!(parse(MetaVerb::Get, "AP8g").unwrap().plain_key(&mut decoded), b"AP8g");
    for key in ["AP8", "AP8g=", "====", "!!!!"] {
        let line = format!("{key} b");
        assert_eq!(parse(MetaVerb::Get, &line), Err("CLIENT_ERROR error decoding key"), "{key}");
        assert_eq!(parse(MetaVerb::Debug, &line), Err("CLIENT_ERROR bad command line format"), "{key}");
    }
}

/// As memcached 1.6.18 answers, but for `E`.
#[test]
fn what_makes_no_sense_is_refused_in_memcacheds_words() {
    use MetaVerb::*;
    let long = "k".repeat(251);
    let many = |count: usize| format!("a {}", "P ".repeat(count));
    let table = [
        (Get, "", "ERROR"),
        (Debug, "", "CLIENT_ERROR bad command line format"),
        (Get, &*long, "CLIENT_ERROR bad command line format"),
        (Count, &*long, "CLIENT_ERROR bad command line format"),
        (Get, "a v v", "CLIENT_ERROR duplicate flag"),
        (Get, "a \x7f", "CLIENT_ERROR duplicate flag"),
        (Get, "a y", "CLIENT_ERROR invalid flag"),
        (Get, "a T", "CLIENT_ERROR bad token in command line format"),
        (Get, "a Nx", "CLIENT_ERROR bad token in command line format"),
        (Get, "a E", "CLIENT_ERROR bad token in command line format"),
        (Set, "a 1 C-1", "CLIENT_ERROR bad token in command line format"),
        (Set, "a 1 F-1", "CLIENT_ERROR bad command line format"),
        (Set, "a 1 F4294967296", "CLIENT_ERROR bad command line format"),
        (Set, "a 1 Cx Fx", "CLIENT_ERROR bad token in command line format"),
        (Set, "a 1 M", "CLIENT_ERROR incorrect length for M token"),
        (Set, "a 1 MXX", "CLIENT_ERROR incorrect length for M token"),
        (Set, "a 1 MX", "CLIENT_ERROR invalid mode for ms M token"),
        (Count, "a MX", "CLIENT_ERROR invalid mode for ma M token"),
        (Count, "a Dx", "CLIENT_ERROR invalid or duplicate flag"),
        (Count, "a Jx", "CLIENT_ERROR invalid or duplicate flag"),
        (Delete, "a y", "CLIENT_ERROR invalid or duplicate flag"),
        (Delete, "a q q", "CLIENT_ERROR invalid or duplicate flag"),
        (Get, &*many(18), "CLIENT_ERROR options flags are too long"),
        (Delete, &*many(18), "CLIENT_ERROR options flags too long"),
        (Get, "a Oxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "CLIENT_ERROR opaque token too long"),
        (Delete, "a Oxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "CLIENT_ERROR opaque token too long"),
    ];
    for (verb, line, text) in table {
        assert_eq!(parse(verb, line), Err(text), "to {verb:?} {line:?}");
    }
    assert_eq!(parse(Get, &many(17)), Err("CLIENT_ERROR duplicate flag"));
    assert!(parse(Get, "a Oxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").is_ok());
    assert!(parse(Delete, "a MX").is_ok(), "not looked at");
}
