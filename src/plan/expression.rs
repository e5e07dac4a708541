//! CEL with bounds: an expression is weighed when it is compiled, and its cost on what it reads is known before it runs.
//! Parsing, weighing and evaluation recurse, so each happens on a thread whose stack is larger than the bounds can use.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, operators};
use cel::objects::{Key, Map};
use cel::{Context, Program, Value as CelValue};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

/// The most characters of an expression; the API server has the same bound.
const MAX_LENGTH: usize = 2048;
/// The most comprehensions (`all`, `exists`, `exists_one`, `map`, `filter`).
const MAX_COMPREHENSIONS: usize = 8;
/// The most comprehensions within each other.
const MAX_DEPTH: u32 = 2;
/// The most places within comprehensions that can make a value larger, so that a chain of them cannot fill the memory.
const MAX_GROWTH: usize = 8;
/// The most parts within each other: whatever walks or drops an expression recurses as deep.
const MAX_NESTING: u32 = 128;
/// The most steps of evaluation.
const MAX_COST: u64 = 20_000_000;
/// The stack that an expression within the bounds is parsed and evaluated on; a tenth of it is used at most.
const STACK: usize = 32 << 20;
/// The most values of a plan that are handed to an expression.
const MAX_VALUES: u64 = 500_000;

/// Why an expression gave no answer, as a clause for people.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoAnswer {
    /// It gave something else than true or false. What it gave is not told: it may be secret.
    #[error("it gives {0}, expected true or false")]
    NotBoolean(String),
    /// It could take too long on these values, or failed on them.
    #[error("{0}")]
    Failed(String),
}

/// An expression that was compiled and weighed.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    weight: Weight,
}

#[derive(Debug, Default)]
struct Weight {
    nodes: u64,
    comprehensions: usize,
    depth: u32,
    growth: usize,
    nesting: u32,
    /// The longest list or map that stands in the expression itself.
    longest: u64,
}

/// A value that expressions can read, with its size.
#[derive(Debug)]
pub struct Subject {
    value: CelValue,
    values: u64,
    longest: u64,
}

impl Expression {
    /// Compiles and weighs an expression that may read the `known` variables.
    ///
    /// # Errors
    /// What is wrong with it, as a clause for people.
    pub fn compile(text: &str, known: &[&str]) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("it has {} bytes, at most {MAX_LENGTH} are allowed", text.len()));
        }
        on_a_large_stack(|| Self::compile_here(text, known))
    }

    fn compile_here(text: &str, known: &[&str]) -> Result<Self, String> {
        let program = Program::compile(text).map_err(|error| {
            // The parser draws the expression with a caret, on lines of its own.
            let text = error.to_string();
            format!("it is not CEL: {}", text.lines().next().unwrap_or_default().trim_end_matches(':'))
        })?;
        if let Some(unknown) = unknown_variable(&program, known) {
            let known: Vec<String> = known.iter().map(|name| format!("'{name}'")).collect();
            return Err(format!("it speaks of '{unknown}', but only {} is known", known.join(" and ")));
        }
        let mut weight = Weight::default();
        weigh(program.expression(), 0, 1, &mut weight);
        if weight.nesting > MAX_NESTING {
            return Err(format!("it is nested {} deep, at most {MAX_NESTING} are allowed", weight.nesting));
        }
        if weight.comprehensions > MAX_COMPREHENSIONS || weight.depth > MAX_DEPTH {
            return Err(format!(
                "it could take too long: it has {} comprehensions, {} within each other; at most {MAX_COMPREHENSIONS} and {MAX_DEPTH} are allowed",
                weight.comprehensions, weight.depth
            ));
        }
        // Each map and filter grows its own result by one item at a time.
        if weight.growth > MAX_GROWTH + 2 * weight.comprehensions {
            return Err("it could need too much memory: too many sums and lists within comprehensions".to_owned());
        }
        Ok(Self { program, weight })
    }

    /// Whether the expression holds where the variable `name` has that value.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn holds(&self, name: &str, subject: &Subject) -> Result<bool, NoAnswer> {
        let longest = subject.longest.max(self.weight.longest);
        let rounds = longest.saturating_pow(self.weight.depth).saturating_mul(self.weight.nodes);
        if subject.values > MAX_VALUES || rounds > MAX_COST {
            return Err(NoAnswer::Failed(format!("{name} is too large for it ({} values)", subject.values)));
        }
        let answer = on_a_large_stack(|| {
            let mut context = Context::default();
            context.add_variable_from_value(name, subject.value.clone());
            match self.program.execute(&context) {
                Ok(CelValue::Bool(holds)) => Ok(Ok(holds)),
                Ok(other) => Ok(Err(NoAnswer::NotBoolean(other.type_of().to_string()))),
                Err(error) => Err(error.to_string()),
            }
        });
        answer.map_err(NoAnswer::Failed)?
    }
}

/// Runs what recurses as deep as an expression is nested.
fn on_a_large_stack<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let running = thread::Builder::new().name("expression".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        let running = running.map_err(|error| format!("there is no thread to evaluate it on: {error}"))?;
        running.join().map_err(|_| "its evaluation failed".to_owned())?
    })
}

impl Subject {
    /// A value with its size.
    #[must_use]
    pub fn new(value: &Value) -> Self {
        let (mut values, mut longest) = (0, 0);
        let value = converted(value, &mut values, &mut longest);
        Self { value, values, longest }
    }
}

/// JSON as CEL sees it in Kubernetes: whole numbers are `int`, whatever their sign.
fn converted(value: &Value, values: &mut u64, longest: &mut u64) -> CelValue {
    *values += 1;
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => CelValue::Int(whole),
            (None, float) => CelValue::Float(float.unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => {
            *longest = (*longest).max(items.len() as u64);
            CelValue::List(Arc::new(items.iter().map(|item| converted(item, values, longest)).collect()))
        }
        Value::Object(members) => {
            *longest = (*longest).max(members.len() as u64);
            let map: HashMap<Key, CelValue> = members
                .iter()
                .map(|(key, value)| (Key::from(key.clone()), converted(value, values, longest)))
                .collect();
            CelValue::Map(Map { map: Arc::new(map) })
        }
    }
}

/// A variable that is neither one of `known` nor made by a macro.
fn unknown_variable(program: &Program, known: &[&str]) -> Option<String> {
    fn find<'e>(expression: &'e IdedExpr, known: &mut Vec<&'e str>) -> Option<String> {
        match &expression.expr {
            // A name of a type, as in `type(x) == string`, is a variable to the parser.
            Expr::Ident(name) => {
                const TYPES: [&str; 9] =
                    ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type"];
                (!known.contains(&name.as_str()) && !TYPES.contains(&name.as_str())).then(|| name.clone())
            }
            Expr::Comprehension(inner) => {
                if let Some(found) = find(&inner.iter_range, known).or_else(|| find(&inner.accu_init, known)) {
                    return Some(found);
                }
                let before = known.len();
                known.push(&inner.iter_var);
                known.extend(inner.iter_var2.as_deref());
                known.push(&inner.accu_var);
                let found = [&inner.loop_cond, &inner.loop_step, &inner.result].iter().find_map(|e| find(e, known));
                known.truncate(before);
                found
            }
            other => children(other).into_iter().find_map(|child| find(child, known)),
        }
    }
    find(program.expression(), &mut known.to_vec())
}

fn weigh(expression: &IdedExpr, depth: u32, nesting: u32, weight: &mut Weight) {
    weight.nodes += 1;
    weight.nesting = weight.nesting.max(nesting);
    let within = depth > 0;
    let length = match &expression.expr {
        Expr::List(list) => list.elements.len(),
        Expr::Map(map) => map.entries.len(),
        _ => 0,
    };
    weight.longest = weight.longest.max(length as u64);
    match &expression.expr {
        Expr::Comprehension(inner) => {
            weight.comprehensions += 1;
            weight.depth = weight.depth.max(depth + 1);
            weigh(&inner.iter_range, depth, nesting + 1, weight);
            for part in [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                weigh(part, depth + 1, nesting + 1, weight);
            }
            return;
        }
        Expr::Call(call) if within && call.func_name == operators::ADD => weight.growth += 1,
        Expr::List(list) if within => weight.growth += list.elements.len(),
        Expr::Map(map) if within => weight.growth += map.entries.len(),
        _ => {}
    }
    for child in children(&expression.expr) {
        weigh(child, depth, nesting + 1, weight);
    }
}

/// The parts of an expression that is no comprehension.
fn children(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Call(call) => call.target.iter().map(Box::as_ref).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| parts(&entry.expr)).collect(),
        Expr::Struct(made) => made.entries.iter().flat_map(|entry| parts(&entry.expr)).collect(),
        Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

fn parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(text: &str) -> Result<bool, String> {
        let plan = json!({ "summary": "x", "approvalsRequired": 2, "steps": [{ "id": "a" }, { "id": "b" }] });
        Expression::compile(text, &["plan"])
            .and_then(|expression| expression.holds("plan", &Subject::new(&plan)).map_err(|error| error.to_string()))
    }

    #[test]
    fn expressions_over_the_plan_are_answered() {
        for (text, answer) in [
            ("plan.approvalsRequired + 1 == 3", true),
            ("plan.steps.all(s, s.id != 'a')", false),
            ("plan.steps.exists(s, plan.steps.all(t, t.id >= s.id))", true),
            ("plan.steps.map(s, s.id + '!').size() == 2", true),
            ("has(plan.estimate) && plan.estimate.monthlyCost == ''", false),
            ("plan.summary.matches('^[a-z]$')", true),
            ("type(plan.summary) == string", true),
        ] {
            assert_eq!(holds(text), Ok(answer), "{text}");
        }
    }

    #[test]
    fn what_gives_no_answer_says_why() {
        for (text, words) in [
            ("plan.", "not CEL"),
            ("plan.nothing == 1", "No such key"),
            ("plan.summary", "expected true or false"),
            ("object.x == 1", "'object'"),
            ("plan.steps.all(s, t.id == 'a')", "'t'"),
        ] {
            let error = holds(text).unwrap_err();
            assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn what_could_take_too_long_is_not_compiled() {
        let nested = "plan.steps.all(a, plan.steps.all(b, plan.steps.all(c, a.id == c.id)))";
        let many = ["plan.steps.all(a, true)"; 9].join(" && ");
        let doubling = format!("['a']{} == []", ".map(a, a + a + a + a)".repeat(5));
        let copies = "plan.steps.map(a, [a, a, a, a, a, a, a, a, a, a, a, a, a]).size() > 0";
        for text in [nested, &many, &doubling, copies, &"1".repeat(3000)] {
            assert!(Expression::compile(text, &["plan"]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_plan_beyond_bounds_is_not_evaluated() {
        let steps: Vec<Value> = (0..5000).map(|id| json!({ "id": id.to_string() })).collect();
        let plan = Subject::new(&json!({ "steps": steps }));
        let linear = Expression::compile("plan.steps.all(s, s.id != 'x')", &["plan"]).unwrap();
        assert_eq!(linear.holds("plan", &plan), Ok(true));
        let square = Expression::compile("plan.steps.all(s, plan.steps.all(t, s.id != t.id))", &["plan"]).unwrap();
        assert!(square.holds("plan", &plan).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn no_depth_and_no_cost_takes_the_process_along() {
        let terms = format!("1{} > 0", "+1".repeat(100));
        assert_eq!(holds(&terms), Ok(true));
        for deep in [format!("1{} > 0", "+1".repeat(1_000)), format!("plan{} == 1", ".a".repeat(1_000))] {
            assert!(holds(&deep).unwrap_err().contains("nested"), "{deep}");
        }
        for open in ["(", "[", "-(", "f(", "{1:", "plan["] {
            assert!(holds(&open.repeat(2_000 / open.len())).is_err());
        }
        let list = format!("[{}]", ["1"; 300].join(","));
        let literal = format!("{list}.all(a, {list}.all(b, true))");
        assert!(holds(&literal).is_err(), "lists in the expression itself count");
    }
}
