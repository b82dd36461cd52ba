//! What is refused before it runs, in cel-go's words; estimates of cost; limits.

use std::sync::Arc;

use keelson_cel::limits::{PER_CALL_LIMIT, STATIC_ESTIMATED_COST_LIMIT};
use keelson_cel::{Decl, Env, EvalError, NoVariables, Value, Variables, compile_pattern, escape};
use serde_json::{Value as Json, json};

fn env(schema: &Json) -> Env {
    let decl = Arc::new(Decl::from_schema(schema, false, "selfType").expect("the schema is visible"));
    Env::new()
        .variable("self", Arc::clone(&decl))
        .variable("oldSelf", decl)
}

fn sample() -> Env {
    env(&json!({"type": "object", "properties": {
        "name": {"type": "string"}, "count": {"type": "integer"},
        "items": {"type": "array", "items": {"type": "string"}}}}))
}

#[test]
fn errors() {
    let env = sample();
    for (expression, expected) in [
        (
            "self.nme == 'x'",
            "ERROR: <input>:1:5: undefined field 'nme'\n | self.nme == 'x'\n | ....^",
        ),
        (
            "1 == x",
            "ERROR: <input>:1:6: undeclared reference to 'x' (in container '')\n | 1 == x\n | .....^",
        ),
        (
            "self.count == 'a'",
            "ERROR: <input>:1:12: found no matching overload for '_==_' applied to '(int, string)'\n | self.count == 'a'\n | ...........^",
        ),
        (
            "self.name.foo()",
            "ERROR: <input>:1:14: undeclared reference to 'foo' (in container '')\n | self.name.foo()\n | .............^",
        ),
        (
            "self.name.startsWith(1)",
            "ERROR: <input>:1:21: found no matching overload for 'startsWith' applied to 'string.(int)'\n | self.name.startsWith(1)\n | ....................^",
        ),
        (
            "self.name.x",
            "ERROR: <input>:1:10: type 'string' does not support field selection\n | self.name.x\n | .........^",
        ),
        (
            "self.count.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.count.all(x, true)\n | ....^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "true &&\n 1",
            "ERROR: <input>:2:2: expected type 'bool' but found 'int'\n |  1\n | .^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "'é' + 1",
            "ERROR: <input>:1:5: found no matching overload for '_+_' applied to '(string, int)'\n | 'é' + 1\n | .．..^",
        ),
        (
            "has(self)",
            "ERROR: <input>:1:5: invalid argument to has() macro\n | has(self)\n | ....^",
        ),
        (
            "self.name.matches('[')",
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('[')\n | ..................^",
        ),
        (
            "duration('x') > duration('1s')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x') > duration('1s')\n | .........^",
        ),
        ("if", "ERROR: <input>:1:1: reserved identifier: if\n | if\n | ^"),
    ] {
        let found = env.compile(expression).expect_err(expression).to_string();
        assert_eq!(found, expected, "{expression}");
    }
}

#[test]
fn result_types() {
    let env = sample();
    for (expression, expected) in [
        ("self", "selfType"),
        ("self.items", "list(string)"),
        ("self.items.map(x, size(x))", "list(int)"),
        ("self.items[0]", "string"),
        ("[]", "list(dyn)"),
        ("{'a': 1u}", "map(string, uint)"),
        ("self.?name", "optional_type(string)"),
        ("self.?name.orValue('')", "string"),
        ("type(1)", "type(int)"),
        ("true ? 1 : dyn(2)", "dyn"),
        ("oldSelf.items.exists(x, x == self.name)", "bool"),
        ("quantity('1')", "kubernetes.Quantity"),
        (
            "timestamp('2020-01-01T00:00:00Z') - timestamp('2020-01-01T00:00:00Z')",
            "duration",
        ),
        ("cel == 1", ""),
    ] {
        match env.compile(expression) {
            Ok(program) => assert_eq!(program.result().to_string(), expected, "{expression}"),
            Err(issues) => assert_eq!(expected, "", "{expression}: {issues}"),
        }
    }
    let program = env.compile("self.name == oldSelf.name").expect("it is valid");
    assert_eq!(program.variables(), ["self", "oldSelf"]);
}

#[test]
fn static_costs() {
    let bounded = env(&json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 10},
        "list": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10}},
        "flag": {"type": "boolean"}, "count": {"type": "integer"}}}));
    for (expression, max) in [
        ("true", 0),
        // self, .flag
        ("self.flag", 2),
        // self, .count; the comparison of a declared number is free.
        ("self.count > 1", 3),
        // has() is free, but for its operand.
        ("has(self.name)", 1),
        // self, .name, and a tenth of the shorter text.
        ("self.name == 'abc'", 3),
        // self, .name, a tenth of the prefix.
        ("self.name.startsWith('abc')", 3),
        // Range 2, result 1, and five times condition (2) and step (accumulator, variable, comparison).
        ("self.list.all(x, x == 'abc')", 2 + 1 + 5 * (2 + 1 + 1 + 1)),
        // (40 + 1) / 10, rounded up, times 8 / 4.
        ("self.name.matches('abcdefgh')", 2 + 5 * 2),
    ] {
        let cost = bounded.compile(expression).expect(expression).estimated_cost();
        assert_eq!(cost.max, max, "{expression}: {cost:?}");
    }
    let unbounded = sample();
    let cost = unbounded
        .compile("self.items.all(x, self.items.all(y, x != y))")
        .expect("it is valid");
    assert!(cost.estimated_cost().max > 100 * STATIC_ESTIMATED_COST_LIMIT);
    let cost = unbounded
        .compile("self.items.all(x, x.contains('a'))")
        .expect("it is valid");
    assert!(cost.estimated_cost().max > STATIC_ESTIMATED_COST_LIMIT);
}

#[test]
fn runtime_costs_equal_the_estimate_when_everything_is_visited() {
    let env = env(&json!({"type": "array", "maxItems": 3, "items": {"type": "integer"}}));
    let decl = Decl::from_schema(
        &json!({"type": "array", "maxItems": 3, "items": {"type": "integer"}}),
        false,
        "selfType",
    )
    .expect("lists are visible");
    let data = json!([1, 2, 3]);
    for expression in [
        "self.all(x, x > 0)",
        "self.map(x, x + 1).size() == 3",
        "self.exists_one(x, x == 2)",
    ] {
        let program = env.compile(expression).expect(expression);
        let variables = Variables(vec![("self", Value::typed(&data, &decl).expect("a list"))]);
        let outcome = program.evaluate(&variables, PER_CALL_LIMIT);
        assert!(outcome.value.is_ok(), "{expression}");
        let estimate = program.estimated_cost();
        // The conditional's cheaper branch is the least, the other the most.
        assert!(
            outcome.cost <= estimate.max + 3 && outcome.cost > 0,
            "{expression}: {} of {estimate:?}",
            outcome.cost
        );
    }
}

#[test]
fn runtime_limit() {
    let numbers: Vec<i64> = (0..1000).collect();
    let data = json!(numbers);
    let env = Env::new().variable("self", Arc::clone(Decl::any()));
    let program = env
        .compile("self.all(x, self.all(y, self.all(z, x + y + z >= 0)))")
        .expect("it is valid");
    let outcome = program.evaluate(
        &Variables(vec![("self", Value::from_json(&data))]),
        PER_CALL_LIMIT,
    );
    assert_eq!(outcome.value.expect_err("it is too much"), EvalError::CostLimit);
    assert!(outcome.cost > PER_CALL_LIMIT && outcome.cost < 2 * PER_CALL_LIMIT);
}

/// Each of these must end quickly, in a value or in an error, on the stack of a worker thread.
#[test]
fn bombs() {
    let deep_parentheses = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let deep_lists = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let long_sum = vec!["1"; 40_000].join(" + ");
    let long_and = vec!["true"; 10_000].join(" && ");
    let members = format!("dyn({{}}){}", ".a".repeat(20_000));
    let negations = "!".repeat(90_000) + "true";
    let types = format!(
        "[1]{}",
        ".map(x, {x: x})"
            .repeat(60)
            .replace("map(x, {x: x})", "map(x, [{1: x, 2: x}])")
    );
    let doubling = format!("[[1]]{}", ".map(x, [x, x])".repeat(60));
    let opt_maps = format!("optional.of(1){}", ".optMap(x, x)".repeat(60));
    let long = "'".to_owned() + &"a".repeat(200_000) + "'";
    let equal = format!("{doubling} == {doubling}");
    for (index, bomb) in [
        &deep_parentheses,
        &deep_lists,
        &long_sum,
        &long_and,
        &members,
        &negations,
        &types,
        &doubling,
        &opt_maps,
        &long,
        &equal,
    ]
    .into_iter()
    .enumerate()
    {
        let bomb = bomb.clone();
        let worker = std::thread::Builder::new()
            .name(format!("bomb {index}"))
            .stack_size(2 << 20)
            .spawn(move || {
                if let Ok(program) = Env::new().compile(&bomb) {
                    let outcome = program.evaluate(&NoVariables, PER_CALL_LIMIT);
                    assert!(outcome.cost < 2 * PER_CALL_LIMIT);
                }
            });
        worker.expect("a thread").join().expect("no overflow, no panic");
    }
    assert!(
        Env::new().compile(&long_and).is_ok(),
        "long conjunctions are balanced"
    );
    let message = Env::new()
        .compile(&deep_parentheses)
        .expect_err("too deep")
        .to_string();
    assert!(
        message.contains("expression recursion limit exceeded: 250"),
        "{message}"
    );
}

#[test]
fn names_and_patterns() {
    for (name, escaped) in [
        ("a", Some("a")),
        ("a_b", Some("a_b")),
        ("a__b", Some("a__underscores__b")),
        ("x-y.z/w", Some("x__dash__y__dot__z__slash__w")),
        ("namespace", Some("__namespace__")),
        ("in", Some("__in__")),
        ("1a", None),
        ("a b", None),
    ] {
        assert_eq!(escape(name).as_deref(), escaped, "{name}");
    }
    for (pattern, text, matches) in [
        ("^[a-z]{2,}$", "ab", true),
        ("^\\w+$", "é", false),
        ("[[:alpha:]]", "b", true),
        ("^\\p{Lu}$", "É", true),
        ("^[[]$", "[", true),
        ("^\\Q.*\\E$", ".*", true),
        ("^x{,2}$", "x{,2}", true),
        ("^[^\\s/]+$", "a b", false),
    ] {
        let regex = compile_pattern(pattern).expect(pattern);
        assert_eq!(regex.is_match(text), matches, "{pattern} on {text}");
    }
    assert!(compile_pattern("(").is_err());
    assert!(compile_pattern("a{1000}{1000}").is_err());
}
