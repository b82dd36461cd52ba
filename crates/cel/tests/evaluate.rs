//! What expressions mean, as tables.

use std::sync::Arc;

use keelson_cel::limits::PER_CALL_LIMIT;
use keelson_cel::{Authorizer, Decision, Decl, Env, Request, Value, Variables};
use serde_json::{Value as Json, json};

/// Compiles and runs an expression over `object` (dynamic) and gives JSON, or the error's text.
fn run_over(expression: &str, object: &Json) -> Result<Json, String> {
    let env = Env::new().variable("object", Arc::clone(Decl::any()));
    let program = env.compile(expression).map_err(|issues| issues.to_string())?;
    let variables = Variables(vec![("object", Value::from_json(object))]);
    let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
    outcome
        .value
        .map_err(|error| error.to_string())
        .and_then(|value| value.to_json().map_err(|error| error.to_string()))
}

fn run(expression: &str) -> Result<Json, String> {
    run_over(expression, &Json::Null)
}

#[track_caller]
fn check(cases: &[(&str, Json)]) {
    let mut wrong = Vec::new();
    for (expression, expected) in cases {
        let found = run(expression);
        if found.as_ref() != Ok(expected) {
            wrong.push(format!(
                "{expression}\n  expected {expected}\n  found    {found:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[track_caller]
fn check_true(expressions: &[&str]) {
    let cases: Vec<(&str, Json)> = expressions
        .iter()
        .map(|expression| (*expression, json!(true)))
        .collect();
    check(&cases);
}

#[track_caller]
fn check_errors(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(run(expression), Err((*expected).to_owned()), "{expression}");
    }
}

#[test]
fn literals() {
    check(&[
        ("1", json!(1)),
        ("-1", json!(-1)),
        ("0x1F", json!(31)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("42u", json!(42)),
        ("1.5e3", json!(1500.0)),
        (".5", json!(0.5)),
        ("'a\\n\\x41\\u00e9\\101'", json!("a\nAéA")),
        (r"r'\d'", json!("\\d")),
        ("'''a'b'''", json!("a'b")),
        ("b'abc' == bytes('abc')", json!(true)),
        ("b'\\xff'.size()", json!(1)),
        ("[1, 2,]", json!([1, 2])),
        ("{'a': 1, 'b': 2}", json!({"a": 1, "b": 2})),
        ("null", Json::Null),
        ("true // a comment", json!(true)),
    ]);
}

#[test]
fn operators() {
    check(&[
        ("1 + 2 * 3 - 4 / 2", json!(5)),
        ("7 % 4", json!(3)),
        ("-(3)", json!(-3)),
        ("--3", json!(3)),
        ("!!true", json!(true)),
        ("'a' + 'b'", json!("ab")),
        ("[1] + [2]", json!([1, 2])),
        ("1 < 2 && 2u > 1u || false", json!(true)),
        ("true ? 1 : 2", json!(1)),
        ("1 in [1, 2]", json!(true)),
        ("'a' in {'a': 1}", json!(true)),
        ("[1, 2][1]", json!(2)),
        ("{'a': {'b': 3}}.a.b", json!(3)),
        ("{1: 'x'}[1]", json!("x")),
        ("{1u: 'x'}[1u]", json!("x")),
    ]);
    check_true(&[
        "dyn(1) == 1.0",
        "dyn(1u) == 1",
        "1 < 1.5",
        "2.5 > 2u",
        "dyn('1') != 1",
        "[1, 2] == [1, 2]",
        "{'a': [1]} == {'a': [1]}",
        "timestamp('2020-01-01T00:00:00Z') < timestamp('2020-01-01T00:00:01Z')",
        "duration('1h') == duration('60m')",
        "b'a' < b'b'",
        "null == null",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
    ]);
}

#[test]
fn errors_are_absorbed_by_logic() {
    check_true(&[
        "true || 1 / 0 > 0",
        "1 / 0 > 0 || true",
        "!(1 / 0 > 0 && false)",
        "[1, 0, 2].exists(x, 2 / x == 1)",
        "![1, 0, 2].all(x, 2 / x == 2)",
    ]);
    check_errors(&[
        ("1 / 0 > 0 || false", "division by zero"),
        ("[0].exists(x, 1 / x == 1)", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("[1][5]", "index out of bounds: 5"),
        ("{'a': 1}.b", "no such key: b"),
        ("{'a': 1}['c']", "no such key: c"),
        ("dyn('a') + 1", "no such overload"),
        ("int('x')", "type conversion error from 'string' to 'int'"),
        ("optional.none().value()", "optional.none() dereference"),
    ]);
}

#[test]
fn macros() {
    check(&[
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x > 1)", json!([2, 3])),
        ("{'a': 1, 'b': 2}.map(k, k)", json!(["a", "b"])),
        (
            "[[1, 2], [3]].map(l, l.map(x, x + l.size()))",
            json!([[3, 4], [4]]),
        ),
        (
            "['a', 'b'].transformList(i, v, v + string(i))",
            json!(["a0", "b1"]),
        ),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10)",
            json!({"b": 20}),
        ),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", json!({"x": "a"})),
        ("optional.of(2).optMap(x, x + 1)", json!(3)),
        ("[1, 2, 3].map(x, [x].map(y, y + x))", json!([[2], [4], [6]])),
    ]);
    check_true(&[
        "[1, 2].all(x, x > 0)",
        "[].all(x, false)",
        "[1, 2].exists(x, x == 2)",
        "[1, 2, 2].exists_one(x, x == 1)",
        "![1, 2, 2].existsOne(x, x == 2)",
        "{'a': 1}.all(k, v, k == 'a' && v == 1)",
        "[5, 6].exists(i, v, i == 1 && v == 6)",
        "has({'a': 1}.a) && !has({'a': 1}.b)",
    ]);
}

#[test]
fn optional_values() {
    check(&[
        ("{'a': 1}.?a.orValue(2)", json!(1)),
        ("{'a': 1}.?b.orValue(2)", json!(2)),
        ("{'a': {'b': 1}}.?a.b.orValue(0)", json!(1)),
        ("{'a': 1}[?'b'].hasValue()", json!(false)),
        ("[1, 2][?5].or(optional.of(7)).value()", json!(7)),
        ("[?optional.of(1), ?optional.none()]", json!([1])),
        ("{?'a': optional.none(), 'b': 1}", json!({"b": 1})),
        ("optional.ofNonZeroValue('').hasValue()", json!(false)),
        ("[1, 2].first().value() + [1, 2].last().value()", json!(3)),
    ]);
}

#[test]
fn strings() {
    check(&[
        ("'hello'.charAt(4)", json!("o")),
        ("'hello'.indexOf('l')", json!(2)),
        ("'hello'.indexOf('l', 3)", json!(3)),
        ("'hello'.lastIndexOf('l')", json!(3)),
        ("'TacoCat'.lowerAscii() + 'x'.upperAscii()", json!("tacocatX")),
        ("'a b a'.replace('a', 'c')", json!("c b c")),
        ("'a b a'.replace('a', 'c', 1)", json!("c b a")),
        ("'a,b,c'.split(',')", json!(["a", "b", "c"])),
        ("'a,b,c'.split(',', 2)", json!(["a", "b,c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        ("'tacocat'.substring(4)", json!("cat")),
        ("'tacocat'.substring(0, 4)", json!("taco")),
        ("'  x '.trim()", json!("x")),
        ("['a', 'b'].join('-')", json!("a-b")),
        (
            "'%s is %d, %.2f, %x %b %o %e'.format([dyn('x'), 5, 1.5, 255, 5, 8, 1234.5])",
            json!("x is 5, 1.50, ff 101 10 1.234500e+03"),
        ),
        (
            "'%s %s'.format([dyn([dyn(1), 'a']), {'k': true}])",
            json!("[1, a] {k: true}"),
        ),
        ("strings.quote('a\"b\\n')", json!("\"a\\\"b\\n\"")),
        ("'abc123'.find('[0-9]+')", json!("123")),
        ("'a1b2'.findAll('[0-9]')", json!(["1", "2"])),
        ("'a1b2'.findAll('[0-9]', 1)", json!(["1"])),
        ("size('é')", json!(1)),
        (
            "string(1.0) + string(1e21) + string(0.5) + string(1234567.0)",
            json!("11e+210.51.234567e+06"),
        ),
    ]);
    check_true(&[
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo')",
        r"'foo123'.matches('^[a-z]+\\d{3}$')",
        r"'a{b'.matches('a{b')",
        r"!'١'.matches('\\d')",
        r"'x&y'.matches('^[x&&y]+$')",
        r"'pet'.matches(r'\bpet\b')",
    ]);
    check_errors(&[
        ("'abc'.charAt(4)", "index out of range: 4"),
        (
            "'abc'.substring(2, 1)",
            "invalid substring range. start: 2, end: 1",
        ),
    ]);
}

#[test]
fn time() {
    check(&[
        ("timestamp('2009-02-13T23:31:30Z').getFullYear()", json!(2009)),
        ("timestamp('2009-02-13T23:31:30Z').getMonth()", json!(1)),
        ("timestamp('2009-02-13T23:31:30Z').getDate()", json!(13)),
        ("timestamp('2009-02-13T23:31:30Z').getDayOfMonth()", json!(12)),
        ("timestamp('2009-02-13T23:31:30Z').getDayOfWeek()", json!(5)),
        ("timestamp('2009-02-13T23:31:30Z').getHours('+02:00')", json!(1)),
        (
            "timestamp('2009-02-13T23:31:30.123Z').getMilliseconds()",
            json!(123),
        ),
        ("duration('3730s').getMinutes()", json!(62)),
        ("string(duration('1h30m'))", json!("5400s")),
        ("string(duration('1.5s'))", json!("1.5s")),
        (
            "string(timestamp('2009-02-13T23:31:30Z') + duration('30s'))",
            json!("2009-02-13T23:32:00Z"),
        ),
        ("int(timestamp('1970-01-01T00:01:00Z'))", json!(60)),
        (
            "timestamp('2020-01-02T00:00:00Z') - timestamp('2020-01-01T00:00:00Z')",
            json!("24h0m0s"),
        ),
    ]);
}

#[test]
fn kubernetes_libraries() {
    check(&[
        ("[1, 2, 3].sum()", json!(6)),
        ("[3, 1, 2].max() - [3, 1, 2].min()", json!(2)),
        (
            "['a', 'b', 'a'].indexOf('a') + ['a', 'b', 'a'].lastIndexOf('a')",
            json!(2),
        ),
        (
            "url('https://example.com:80/a%20b?q=1&q=2').getHost()",
            json!("example.com:80"),
        ),
        ("url('/path?q=1').getQuery()", json!({"q": ["1"]})),
        ("quantity('1.5Gi').compareTo(quantity('1Gi'))", json!(1)),
        ("quantity('50k').add(20).asInteger()", json!(50020)),
        ("ip('192.168.0.1').family()", json!(4)),
        (
            "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24')",
            json!(true),
        ),
        ("cidr('10.0.0.0/8').prefixLength()", json!(8)),
        ("semver('1.2.3').minor()", json!(2)),
        (
            "format.dns1123Label().validate('NotValid').value().size()",
            json!(1),
        ),
    ]);
    check_true(&[
        "[1, 2, 2].isSorted() && !['b', 'a'].isSorted()",
        "isURL('https://a/b') && !isURL('a b')",
        "isQuantity('1Gi') && !isQuantity('1G2') && quantity('1k') == quantity('1000')",
        "isIP('::1') && !isIP('1.2.3.04') && !isIP('::ffff:1.2.3.4')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "ip('127.0.0.1').isLoopback() && string(ip('10.0.0.1')) == '10.0.0.1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('10.0.0.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && isCIDR('::/0') && !isCIDR('1.2.3.4')",
        "semver('1.0.0-alpha').isLessThan(semver('1.0.0')) && isSemver('v1.0', true) && !isSemver('v1.0.0')",
        "!format.named('nope').hasValue() && !format.named('uuid').value().validate('6ba7b810-9dad-11d1-80b4-00c04fd430c8').hasValue()",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
}

#[test]
fn dynamic_input() {
    let object = json!({"spec": {"replicas": 3, "names": ["a", "b"], "nothing": null, "ratio": 0.5},
        "metadata": {"labels": {"app.kubernetes.io/name": "x"}}});
    for (expression, expected) in [
        ("object.spec.replicas > 2", json!(true)),
        ("object.spec.names.all(n, n.size() == 1)", json!(true)),
        ("object.metadata.labels['app.kubernetes.io/name']", json!("x")),
        ("has(object.spec.missing)", json!(false)),
        ("object.spec.nothing == null", json!(true)),
        ("object.spec.?missing.deeper.orValue('d')", json!("d")),
        ("object.spec.ratio < 1", json!(true)),
    ] {
        assert_eq!(run_over(expression, &object), Ok(expected), "{expression}");
    }
    assert_eq!(
        run_over("object.spec.missing.x", &object),
        Err("no such key: missing".to_owned())
    );
}

#[test]
fn typed_input() {
    let schema = json!({"type": "object", "properties": {
        "min": {"type": "integer"},
        "when": {"type": "string", "format": "date-time"},
        "for": {"type": "string"},
        "a-b": {"type": "string"},
        "mixed": {"x-kubernetes-int-or-string": true},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "data": {"type": "string", "format": "byte"},
        "maybe": {"type": "string", "nullable": true},
    }});
    let decl = Arc::new(Decl::from_schema(&schema, false, "selfType").expect("objects are visible"));
    let object = json!({"min": 2, "when": "2020-01-01T00:00:00Z", "for": "x", "a-b": "y", "mixed": "50%",
        "set": ["b", "a"], "keyed": [{"k": "1", "v": 1}, {"k": "2", "v": 2}], "data": "AAE=", "maybe": null});
    let env = Env::new().variable("self", Arc::clone(&decl));
    for expression in [
        "self.min == 2",
        "self.when.getFullYear() == 2020",
        "self.__for__ == 'x' && self.a__dash__b == 'y'",
        "type(self.mixed) == string && self.mixed.endsWith('%')",
        "self.set == ['a', 'b'] && self.set + ['b', 'c'] == ['a', 'b', 'c']",
        "self.keyed.map(e, e.v).sum() == 3",
        "self.keyed + self.keyed == self.keyed",
        "size(self.data) == 2",
        "!has(self.maybe) || self.maybe == null || self.maybe == 'x'",
    ] {
        let program = match env.compile(expression) {
            Ok(program) => program,
            // A string that may be null cannot be compared to null statically.
            Err(issues) if expression.contains("maybe") => {
                assert!(
                    issues
                        .to_string()
                        .contains("found no matching overload for '_==_' applied to '(string, null)'")
                );
                continue;
            }
            Err(issues) => panic!("{expression}: {issues}"),
        };
        let this = Value::typed(&object, &decl).expect("the object is as its schema says");
        let outcome = program.evaluate(&Variables(vec![("self", this)]), PER_CALL_LIMIT);
        assert!(
            matches!(outcome.value, Ok(Value::Bool(true))),
            "{expression}: {:?}",
            outcome.value
        );
    }
}

struct OnlyPods;

impl Authorizer for OnlyPods {
    fn decide(&self, request: &Request) -> Decision {
        Decision {
            allowed: request.resource == "pods" && request.verb == "get",
            reason: format!("{}/{}", request.group, request.namespace),
            error: None,
        }
    }
}

#[test]
fn authorization() {
    let env = Env::new().authorizer("authorizer");
    let authorizer = OnlyPods;
    for (expression, expected) in [
        (
            "authorizer.group('').resource('pods').namespace('n').check('get').allowed()",
            json!(true),
        ),
        (
            "authorizer.group('apps').resource('deployments').check('get').allowed()",
            json!(false),
        ),
        (
            "authorizer.group('g').resource('pods').namespace('n').check('get').reason()",
            json!("g/n"),
        ),
        ("authorizer.path('/healthz').check('get').errored()", json!(false)),
        (
            "authorizer.serviceAccount('n', 'sa').group('').resource('pods').check('get').allowed()",
            json!(true),
        ),
    ] {
        let program = env.compile(expression).expect(expression);
        let variables = Variables(vec![("authorizer", Value::authorizer(&authorizer))]);
        let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
        assert!(outcome.cost >= 350_000, "{expression} costs {}", outcome.cost);
        let value = outcome.value.expect(expression).to_json().expect(expression);
        assert_eq!(value, expected, "{expression}");
    }
}
