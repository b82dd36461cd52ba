//! Tokens to tree, by precedence climbing. The grammar is the language definition's; node positions are those that
//! cel-go reports: operators at the operator, calls at the opening parenthesis, selections at the dot.

use super::ast::{Entry, Expr, ExprId, Kind, Literal};
use super::lexer::{Token, TokenKind, lex};
use super::source::Source;
use super::{literal, macros};
use crate::error::{Issue, Issues};
use crate::limits::{MAX_DEPTH, MAX_EXPRESSION_CHARS, MAX_RECURSION};

/// A parsed expression.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(crate) root: Expr,
    pub(crate) source: Source,
    /// The offset of each node, in characters.
    pub(crate) positions: Vec<usize>,
}

impl Parsed {
    /// An issue at a node.
    pub(crate) fn issue(&self, id: ExprId, message: impl Into<String>) -> Issue {
        let offset = self.positions.get(id as usize).copied().unwrap_or_default();
        self.source.issue(offset, message)
    }
}

/// Words that may not be used as names.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a word of the language stands in the way of a name, also as the name of a field.
pub(crate) fn is_keyword(word: &str) -> bool {
    matches!(word, "true" | "false" | "null" | "in") || RESERVED.contains(&word)
}

const EXPECTED_PRIMARY: &str = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// How tightly a binary operator binds; zero for every other token.
fn level(token: Token<'_>) -> usize {
    match (token.kind, token.text) {
        (TokenKind::Symbol, "<" | "<=" | ">=" | ">" | "==" | "!=" | "in") => 1,
        (TokenKind::Symbol, "+" | "-") => 2,
        (TokenKind::Symbol, "*" | "/" | "%") => 3,
        _ => 0,
    }
}

/// Stops parsing; the issue is already recorded.
pub(super) struct Abort;
pub(super) type Parse<T> = Result<T, Abort>;

/// The parser's state.
pub(super) struct Parser<'s> {
    tokens: Vec<Token<'s>>,
    next: usize,
    source: &'s Source,
    pub(super) positions: Vec<usize>,
    issues: Vec<Issue>,
    recursion: usize,
}

/// Parses an expression and expands its macros.
///
/// # Errors
/// What is wrong with the syntax, or that the expression is too long or nested too deeply.
pub(crate) fn parse(text: &str) -> Result<Parsed, Issues> {
    let length = text.chars().count();
    if length > MAX_EXPRESSION_CHARS {
        let source = Source::new("");
        let message =
            format!("expression code point size exceeds limit: size: {length}, limit {MAX_EXPRESSION_CHARS}");
        return Err(Issues(vec![source.issue(0, message)]));
    }
    let source = Source::new(text);
    let tokens = lex(text, &source).map_err(Issues)?;
    let mut parser = Parser {
        tokens,
        next: 0,
        source: &source,
        positions: Vec::new(),
        issues: Vec::new(),
        recursion: 0,
    };
    let root = parser.expression().and_then(|root| {
        if parser.peek().kind == TokenKind::End {
            return Ok(root);
        }
        let token = parser.peek();
        let kind = if token.text == "<EOF>" {
            "mismatched"
        } else {
            "extraneous"
        };
        Err(parser.syntax_error(
            token.at,
            &format!("{kind} input '{}' expecting <EOF>", token.text),
        ))
    });
    let Parser {
        positions,
        mut issues,
        ..
    } = parser;
    match root {
        Ok(root) if issues.is_empty() => {
            if root.depth() > MAX_DEPTH {
                let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
                return Err(Issues(vec![source.issue(0, message)]));
            }
            Ok(Parsed {
                root,
                source,
                positions,
            })
        }
        _ => {
            issues.sort_by_key(|issue| (issue.line, issue.column));
            Err(Issues(issues))
        }
    }
}

impl<'s> Parser<'s> {
    fn peek(&self) -> Token<'s> {
        self.tokens[self.next]
    }

    fn advance(&mut self) -> Token<'s> {
        let token = self.tokens[self.next];
        if token.kind != TokenKind::End {
            self.next += 1;
        }
        token
    }

    fn at_symbol(&self, symbol: &str) -> bool {
        let token = self.peek();
        token.kind == TokenKind::Symbol && token.text == symbol
    }

    /// Consumes the symbol if it is next.
    fn accept(&mut self, symbol: &str) -> Option<Token<'s>> {
        self.at_symbol(symbol).then(|| self.advance())
    }

    fn expect(&mut self, symbol: &str) -> Parse<Token<'s>> {
        match self.accept(symbol) {
            Some(token) => Ok(token),
            None => {
                let token = self.peek();
                Err(self.syntax_error(
                    token.at,
                    &format!("mismatched input '{}' expecting '{symbol}'", token.text),
                ))
            }
        }
    }

    /// A new node at an offset.
    pub(super) fn node(&mut self, at: usize, kind: Kind) -> Expr {
        let id = ExprId::try_from(self.positions.len())
            .expect("invariant: the expression is at most 100,000 long");
        self.positions.push(at);
        Expr { id, kind }
    }

    /// Where a node stands.
    pub(super) fn position(&self, expr: &Expr) -> usize {
        self.positions[expr.id as usize]
    }

    /// Records an issue and goes on.
    pub(super) fn report(&mut self, at: usize, message: impl Into<String>) {
        self.issues.push(self.source.issue(at, message));
    }

    fn syntax_error(&mut self, at: usize, message: &str) -> Abort {
        self.report(at, format!("Syntax error: {message}"));
        Abort
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.node(
            at,
            Kind::Call {
                function: function.to_owned(),
                target: None,
                args,
            },
        )
    }

    fn expression(&mut self) -> Parse<Expr> {
        self.recursion += 1;
        if self.recursion > MAX_RECURSION {
            self.report(0, format!("expression recursion limit exceeded: {MAX_RECURSION}"));
            return Err(Abort);
        }
        let condition = self.disjunction()?;
        let expr = match self.accept("?") {
            None => condition,
            Some(operator) => {
                let yes = self.disjunction()?;
                self.expect(":")?;
                let no = self.expression()?;
                self.call(operator.at, "_?_:_", vec![condition, yes, no])
            }
        };
        self.recursion -= 1;
        Ok(expr)
    }

    /// A chain of `||` of chains of `&&`, each balanced so that long chains stay shallow.
    fn disjunction(&mut self) -> Parse<Expr> {
        let (mut terms, mut operators) = (vec![Some(self.conjunction()?)], Vec::new());
        while let Some(operator) = self.accept("||") {
            operators.push(operator.at);
            terms.push(Some(self.conjunction()?));
        }
        Ok(self.balance("_||_", &mut terms, &operators))
    }

    fn conjunction(&mut self) -> Parse<Expr> {
        let (mut terms, mut operators) = (vec![Some(self.binary()?)], Vec::new());
        while let Some(operator) = self.accept("&&") {
            operators.push(operator.at);
            terms.push(Some(self.binary()?));
        }
        Ok(self.balance("_&&_", &mut terms, &operators))
    }

    fn balance(&mut self, function: &str, terms: &mut [Option<Expr>], operators: &[usize]) -> Expr {
        if operators.is_empty() {
            return terms[0].take().expect("invariant: each term is taken once");
        }
        let middle = operators.len() / 2;
        let left = self.balance(function, &mut terms[..=middle], &operators[..middle]);
        let right = self.balance(function, &mut terms[middle + 1..], &operators[middle + 1..]);
        self.call(operators[middle], function, vec![left, right])
    }

    /// Relations, sums and products, all left-associative, with the operators that wait on a stack of our own.
    fn binary(&mut self) -> Parse<Expr> {
        let mut operands = vec![self.unary()?];
        let mut waiting: Vec<(usize, Token<'s>)> = Vec::new();
        loop {
            let operator = self.peek();
            let level = level(operator);
            while let Some((_, earlier)) = waiting.pop_if(|(earlier, _)| *earlier >= level) {
                self.reduce(&mut operands, earlier);
            }
            if level == 0 {
                return Ok(operands.pop().expect("invariant: one operand is left"));
            }
            self.advance();
            waiting.push((level, operator));
            operands.push(self.unary()?);
        }
    }

    /// Makes a call of the last two operands.
    fn reduce(&mut self, operands: &mut Vec<Expr>, operator: Token<'s>) {
        let right = operands.pop().expect("invariant: an operator has two operands");
        let left = operands.pop().expect("invariant: an operator has two operands");
        let function = match operator.text {
            "in" => "@in".to_owned(),
            symbol => format!("_{symbol}_"),
        };
        operands.push(self.call(operator.at, &function, vec![left, right]));
    }

    fn unary(&mut self) -> Parse<Expr> {
        let first = self.peek();
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while self.at_symbol(symbol) && !(symbol == "-" && self.number_follows()) {
                self.advance();
                count += 1;
            }
            if count > 0 {
                let member = self.member()?;
                return Ok(if count % 2 == 0 {
                    member
                } else {
                    self.call(first.at, function, vec![member])
                });
            }
        }
        self.member()
    }

    /// Whether the token after the next is a number that a minus sign belongs to.
    fn number_follows(&self) -> bool {
        self.tokens
            .get(self.next + 1)
            .is_some_and(|token| matches!(token.kind, TokenKind::Int | TokenKind::Float))
    }

    fn member(&mut self) -> Parse<Expr> {
        let mut expr = self.primary()?;
        loop {
            if let Some(dot) = self.accept(".") {
                expr = self.after_dot(expr, dot.at)?;
            } else if let Some(bracket) = self.accept("[") {
                let optional = self.accept("?").is_some();
                let index = self.expression()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                expr = self.call(bracket.at, function, vec![expr, index]);
            } else {
                return Ok(expr);
            }
        }
    }

    fn after_dot(&mut self, operand: Expr, dot: usize) -> Parse<Expr> {
        let optional = self.accept("?").is_some();
        let token = self.advance();
        let field = match token.kind {
            TokenKind::Ident => token.text.to_owned(),
            TokenKind::EscapedIdent => token.text.trim_matches('`').to_owned(),
            _ => {
                let message = format!("no viable alternative at input '.{}'", token.text);
                return Err(self.syntax_error(token.at, &message));
            }
        };
        if optional {
            let name = self.node(token.at, Kind::Literal(Literal::String(field)));
            return Ok(self.call(dot, "_?._", vec![operand, name]));
        }
        if token.kind == TokenKind::Ident && self.at_symbol("(") {
            let open = self.advance();
            let args = self.arguments(")")?;
            return Ok(macros::member(self, open.at, operand, field, args));
        }
        Ok(self.node(
            dot,
            Kind::Select {
                operand: Box::new(operand),
                field,
                test_only: false,
            },
        ))
    }

    /// Expressions separated by commas up to the closing symbol.
    fn arguments(&mut self, close: &str) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.accept(close).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.accept(",").is_none() {
                self.expect(close)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Parse<Expr> {
        let token = self.advance();
        match (token.kind, token.text) {
            (TokenKind::Symbol, "(") => {
                let expr = self.expression()?;
                self.expect(")")?;
                Ok(expr)
            }
            (TokenKind::Symbol, "[") => self.list(token.at),
            (TokenKind::Symbol, "{") => self.map(token.at),
            (TokenKind::Symbol, "true" | "false") => {
                Ok(self.node(token.at, Kind::Literal(Literal::Bool(token.text == "true"))))
            }
            (TokenKind::Symbol, "null") => Ok(self.node(token.at, Kind::Literal(Literal::Null))),
            (TokenKind::Symbol, "-") => {
                let number = self.advance();
                Ok(self.number(number, token.at, true))
            }
            (TokenKind::Symbol, ".") if self.peek().kind == TokenKind::Ident => {
                let name = self.advance();
                self.name(name, format!(".{}", name.text))
            }
            (TokenKind::Ident, text) => self.name(token, text.to_owned()),
            (TokenKind::Int | TokenKind::Uint | TokenKind::Float, _) => {
                Ok(self.number(token, token.at, false))
            }
            (TokenKind::String | TokenKind::Bytes, _) => Ok(self.quoted(token)),
            (_, text) => Err(self.unexpected(token.at, text)),
        }
    }

    fn unexpected(&mut self, at: usize, text: &str) -> Abort {
        self.syntax_error(at, &format!("mismatched input '{text}' {EXPECTED_PRIMARY}"))
    }

    /// A literal of text or of bytes.
    fn quoted(&mut self, token: Token<'s>) -> Expr {
        let value = match token.kind {
            TokenKind::Bytes => literal::bytes(token.text).map(Literal::Bytes),
            _ => literal::string(token.text).map(Literal::String),
        };
        let value = value.unwrap_or_else(|problem| {
            self.report(token.at, problem);
            Literal::Null
        });
        self.node(token.at, Kind::Literal(value))
    }

    /// After an identifier: a name, a global call, or a message.
    fn name(&mut self, token: Token<'s>, name: String) -> Parse<Expr> {
        if let Some(open) = self.accept("(") {
            if RESERVED.contains(&token.text) {
                self.report(token.at, format!("reserved identifier: {}", token.text));
            }
            let args = self.arguments(")")?;
            return Ok(macros::global(self, open.at, name, args));
        }
        if let Some((length, full)) = self.message_name(&name) {
            self.next += length;
            let open = self.expect("{")?;
            return self.message(open.at, full);
        }
        if RESERVED.contains(&token.text) {
            self.report(token.at, format!("reserved identifier: {}", token.text));
        }
        Ok(self.node(token.at, Kind::Ident(name)))
    }

    /// When a dotted name followed by `{` stands here: how many tokens it has, and the name.
    fn message_name(&self, first: &str) -> Option<(usize, String)> {
        let mut full = first.to_owned();
        let mut at = self.next;
        loop {
            let token = self.tokens.get(at)?;
            match (token.kind, token.text) {
                (TokenKind::Symbol, "{") => return Some((at - self.next, full)),
                (TokenKind::Symbol, ".") => {
                    let name = self
                        .tokens
                        .get(at + 1)
                        .filter(|name| name.kind == TokenKind::Ident)?;
                    full.push('.');
                    full.push_str(name.text);
                    at += 2;
                }
                _ => return None,
            }
        }
    }

    fn message(&mut self, at: usize, name: String) -> Parse<Expr> {
        let mut fields = Vec::new();
        while self.accept("}").is_none() {
            let optional = self.accept("?").is_some();
            let field = self.advance();
            if !matches!(field.kind, TokenKind::Ident | TokenKind::EscapedIdent) {
                let message = format!(
                    "mismatched input '{}' expecting {{'}}', ',', '?', IDENTIFIER}}",
                    field.text
                );
                return Err(self.syntax_error(field.at, &message));
            }
            let colon = self.expect(":")?;
            let value = self.expression()?;
            let marker = self.node(colon.at, Kind::Literal(Literal::Null));
            fields.push((
                marker.id,
                field.text.trim_matches('`').to_owned(),
                value,
                optional,
            ));
            if self.accept(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        Ok(self.node(at, Kind::Struct { name, fields }))
    }

    fn list(&mut self, at: usize) -> Parse<Expr> {
        let (mut elements, mut optional) = (Vec::new(), Vec::new());
        while self.accept("]").is_none() {
            optional.push(self.accept("?").is_some());
            elements.push(self.expression()?);
            if self.accept(",").is_none() {
                self.expect("]")?;
                break;
            }
        }
        Ok(self.node(at, Kind::List { elements, optional }))
    }

    fn map(&mut self, at: usize) -> Parse<Expr> {
        let mut entries = Vec::new();
        while self.accept("}").is_none() {
            let optional = self.accept("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if self.accept(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        Ok(self.node(at, Kind::Map(entries)))
    }

    fn number(&mut self, token: Token<'s>, at: usize, negative: bool) -> Expr {
        let value = match token.kind {
            TokenKind::Int => literal::int(negative, token.text)
                .map(Literal::Int)
                .ok_or("invalid int literal"),
            TokenKind::Uint => literal::uint(token.text.trim_end_matches(['u', 'U']))
                .map(Literal::Uint)
                .ok_or("invalid uint literal"),
            _ => match token.text.parse::<f64>() {
                Ok(number) if number.is_finite() => {
                    Ok(Literal::Double(if negative { -number } else { number }))
                }
                _ => Err("invalid double literal"),
            },
        };
        let value = value.unwrap_or_else(|problem| {
            self.report(at, problem);
            Literal::Null
        });
        self.node(at, Kind::Literal(value))
    }
}
