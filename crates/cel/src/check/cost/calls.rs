//! What calls cost.

use super::{CostEstimate, Coster, EntrySize, REGEX_FACTOR, STRING_FACTOR, Size, Type};
use crate::syntax::{Expr, Kind, Literal};

/// What a call costs beside its arguments, and how large its result is.
struct Call {
    cost: CostEstimate,
    size: Option<Size>,
}

impl Call {
    fn cost(cost: CostEstimate) -> Self {
        Self { cost, size: None }
    }

    fn sized(cost: CostEstimate, size: Size) -> Self {
        Self {
            cost,
            size: Some(size),
        }
    }
}

impl Coster<'_> {
    pub(super) fn call(
        &mut self,
        expr: &Expr,
        function: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> CostEstimate {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg).plus(CostEstimate::fixed(1));
            self.copy_sizes(expr, arg);
            return cost;
        }
        if function == "_?._"
            && let [operand, field] = args
        {
            let cost = self.cost(operand).plus(CostEstimate::fixed(1));
            let mut path = self.path(operand);
            if let Kind::Literal(Literal::String(field)) = &field.kind {
                path.push(field.clone());
            }
            self.paths.insert(expr.id, path);
            return cost;
        }
        let costs: Vec<CostEstimate> = args.iter().map(|arg| self.cost(arg)).collect();
        let overloads: Vec<&'static str> = self
            .typed
            .overloads(expr.id)
            .iter()
            .map(|overload| overload.id)
            .collect();
        if overloads.is_empty() {
            return CostEstimate::default();
        }
        let target_cost = target.map(|target| self.cost(target)).unwrap_or_default();
        let mut total = CostEstimate {
            min: u64::MAX,
            max: 0,
        };
        let mut size: Option<Size> = None;
        for overload in overloads {
            let call = self.overload(expr, function, overload, target, args, &costs);
            total = total.union(call.cost);
            if let Some(result) = call.size {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            let step = match overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(container)) = (step, args.first()) {
                size = self.entry_size(container).map(|entries| entries.value);
                let mut path = self.path(container);
                path.push(step.to_owned());
                self.paths.insert(expr.id, path);
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.set_size(expr, size);
        target_cost.plus(total)
    }

    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[CostEstimate],
    ) -> Call {
        let arguments = costs
            .iter()
            .fold(CostEstimate::default(), |sum, cost| sum.plus(*cost));
        let library = match target {
            Some(target) => self.member(function, overload, target, args),
            None => self.global(function, args),
        };
        if let Some(call) = library {
            return Call {
                cost: call.cost.plus(arguments),
                size: call.size,
            };
        }
        match (overload, args) {
            ("logical_or" | "logical_and", [_, _]) => Call::cost(CostEstimate {
                min: costs[0].min,
                max: costs[0].plus(costs[1]).max,
            }),
            ("conditional", [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                if let (Some(yes), Some(no)) = (self.entry_size(yes), self.entry_size(no)) {
                    self.entries.insert(expr.id, yes.union(no));
                }
                Call::sized(costs[0].plus(costs[1].union(costs[2])), size)
            }
            ("add_string" | "add_bytes" | "add_list", [left, right]) => {
                let size = self.size_or_unknown(left).plus(self.size_or_unknown(right));
                let entries: (Option<EntrySize>, _) = (self.entry_size(left), self.entry_size(right));
                if let (Some(left), Some(right)) = entries {
                    self.entries.insert(expr.id, left.union(right));
                }
                let cost = match overload {
                    "add_list" => CostEstimate::fixed(1),
                    _ => size.scaled(STRING_FACTOR),
                };
                Call::sized(cost.plus(arguments), size)
            }
            _ => Call::cost(self.standard(overload, target, args).plus(arguments)),
        }
    }

    /// Functions of the language itself.
    fn standard(&mut self, overload: &str, target: Option<&Expr>, args: &[Expr]) -> CostEstimate {
        match (overload, target, args) {
            ("string_format", Some(target), _) => self.size_or_unknown(target).scaled(STRING_FACTOR),
            (
                "string_to_bytes" | "bytes_to_string" | "strings_quote" | "starts_with_string"
                | "ends_with_string",
                _,
                [arg],
            ) => self.size_or_unknown(arg).scaled(STRING_FACTOR),
            ("in_list", None, [_, list]) => self.size_or_unknown(list),
            ("matches_string", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                self.regex_cost(text, pattern)
            }
            ("contains_string", Some(text), [part]) => {
                let text = self.size_or_unknown(text).scaled(STRING_FACTOR);
                text.times(self.size_or_unknown(part).scaled(STRING_FACTOR))
            }
            _ if is_comparison(overload) && args.len() == 2 => {
                let left = self.size_or_unknown(&args[0]).max;
                let max = left.min(self.size_or_unknown(&args[1]).max);
                CostEstimate {
                    min: u64::from(max > 0),
                    max,
                }
                .scaled(STRING_FACTOR)
            }
            _ => CostEstimate::fixed(1),
        }
    }

    fn regex_cost(&mut self, text: &Expr, pattern: &Expr) -> CostEstimate {
        let text = self
            .size_or_unknown(text)
            .plus(Size::fixed(1))
            .scaled(STRING_FACTOR);
        text.times(self.size_or_unknown(pattern).scaled(REGEX_FACTOR))
    }

    /// Kubernetes' global functions.
    fn global(&mut self, function: &str, args: &[Expr]) -> Option<Call> {
        match (function, args) {
            ("url", [text]) => {
                let cost = self.size_or_unknown(text).scaled(STRING_FACTOR);
                Some(Call::cost(cost))
            }
            _ => None,
        }
    }

    /// Kubernetes' member functions.
    fn member(&mut self, function: &str, overload: &str, target: &Expr, args: &[Expr]) -> Option<Call> {
        let call = match function {
            "check" => Call::cost(CostEstimate::fixed(350_000)),
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "ip" => Call::cost(CostEstimate::fixed(1)),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => self.traversal(target),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.size_or_unknown(target);
                Call::sized(size.scaled(STRING_FACTOR), size)
            }
            "replace" if args.len() >= 2 => self.replace(target, args),
            "split" => {
                let size = self.size_or_unknown(target);
                Call::sized(
                    size.scaled(2.0 * STRING_FACTOR),
                    Size {
                        min: 0,
                        max: size.max,
                    },
                )
            }
            "join" => self.join(target, args),
            "find" | "findAll" if !args.is_empty() => {
                let size = self.size_or_unknown(target);
                let cost = self.regex_cost(target, &args[0]);
                Call::sized(
                    cost,
                    Size {
                        min: 0,
                        max: size.max,
                    },
                )
            }
            "containsIP" | "containsCIDR" => Call::cost(self.contains_address(overload, args)),
            _ => return None,
        };
        Some(call)
    }

    fn traversal(&mut self, target: &Expr) -> Call {
        let size = self.size_or_unknown(target);
        match self.typed.type_of(target.id).clone() {
            Type::List(element) => {
                let mut each = CostEstimate::fixed(1);
                if matches!(element.as_ref(), Type::String | Type::Bytes) {
                    each = each.plus(self.element_size(target).scaled(STRING_FACTOR));
                }
                Call::cost(size.times(each))
            }
            _ => Call::cost(size.scaled(STRING_FACTOR)),
        }
    }

    /// The size of a list's elements, as far as the schema knows.
    fn element_size(&mut self, list: &Expr) -> Size {
        let mut path = self.path(list);
        if path.is_empty() {
            return Size::UNKNOWN;
        }
        path.push("@items".to_owned());
        self.declared_size(&path).unwrap_or(Size::UNKNOWN)
    }

    fn replace(&mut self, target: &Expr, args: &[Expr]) -> Call {
        let size = self.size_or_unknown(target);
        let old = self.size_or_unknown(&args[0]);
        let new = self.size_or_unknown(&args[1]);
        let (mut count, mut kept) = (Size::default(), Size::default());
        if old.min == 0 {
            count.max = size.max.saturating_add(1);
            kept.max = size.max;
        } else if new.max <= old.min {
            kept.max = size.max;
        } else {
            count.max = size.max.div_ceil(old.min);
        }
        if old.max == 0 {
            count.min = size.min.saturating_add(1);
            kept.min = size.min;
        } else if old.max <= new.min {
            kept.min = size.min;
        } else {
            count.min = size.min.div_ceil(old.max);
        }
        Call::sized(size.scaled(2.0 * STRING_FACTOR), count.times(new).plus(kept))
    }

    fn join(&mut self, target: &Expr, args: &[Expr]) -> Call {
        let list = self.size_or_unknown(target);
        let mut size = list.times(self.element_size(target));
        if let Some(separator) = args.first() {
            let count = Size {
                min: list.min.saturating_sub(1),
                max: list.max.saturating_sub(1),
            };
            size = size.plus(self.size_or_unknown(separator).times(count));
        }
        Call::sized(size.scaled(STRING_FACTOR), size)
    }

    fn contains_address(&mut self, overload: &str, args: &[Expr]) -> CostEstimate {
        let address = Size { min: 4, max: 16 };
        let mut cost = address.plus(address).scaled(STRING_FACTOR);
        if overload.starts_with("cidr_contains_cidr") {
            cost = cost
                .plus(address.scaled(STRING_FACTOR))
                .plus(CostEstimate::fixed(1));
        }
        if overload.ends_with("_string")
            && let [text] = args
        {
            cost = cost.plus(self.size_or_unknown(text).scaled(STRING_FACTOR));
        }
        cost
    }
}

/// Whether an overload compares two values of which the shorter decides the cost.
fn is_comparison(overload: &str) -> bool {
    let ordered = ["less_", "less_equals_", "greater_", "greater_equals_"]
        .iter()
        .any(|prefix| matches!(overload.strip_prefix(prefix), Some("string" | "bytes")));
    ordered || matches!(overload, "equals" | "not_equals")
}
