//! From the client's JSON to a [`Rule`]; every refusal names its place ("all.0.op").
//!
//! Unknown fields are refused: a mistyped `window` would otherwise silently mean "ever".

use serde_json::{Map, Value};

use super::test::{Order, Scalar, Set, Test};
use super::{
    Compare, EventLeaf, LEVELS_MAX, Leaf, LeafKind, NODES_MAX, Node, ProfileLeaf, Rule, SYNONYMS, Since, Where,
};
use crate::Refused;
use crate::json::{self, Number};
use crate::time::{DAY_MS, SECOND_MS};

const LIST_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 200;
const TEXT_CHARS_MAX: usize = 1_000;
/// Ten years: longer than any event is kept, short enough for any arithmetic.
const SPAN_DAYS_MAX: i64 = 3_650;
/// From here on a count window of whole days means UTC days, which roll-ups by day can answer (design 5).
const DAY_WINDOW_MIN: i64 = 3;
/// C68 gives the last stage its second name.
const STAGES: [&str; 5] = ["new", "active", "at_risk", "churned", "dormant"];

type Object = Map<String, Value>;

impl Rule {
    pub fn new(rules: &[u8]) -> Result<Self, Refused> {
        json::check(rules)?;
        let value: Value = serde_json::from_slice(rules).map_err(|error| Refused::new("", error.to_string()))?;
        let mut compiler = Compiler::default();
        let root = compiler.node(&value, "", 1)?;
        let Compiler { profile_leaves, event_leaves, traits, properties, leaves, .. } = compiler;
        Ok(Self { root, profile_leaves, event_leaves, traits, properties, leaves })
    }
}

#[derive(Default)]
struct Compiler {
    nodes: usize,
    profile_leaves: Vec<ProfileLeaf>,
    event_leaves: Vec<EventLeaf>,
    traits: Vec<String>,
    properties: Vec<String>,
    leaves: Vec<Leaf>,
}

/// What a group of conditions is, whatever the conditions are on.
enum Group<T> {
    All(Vec<T>),
    Any(Vec<T>),
    Not(Box<T>),
}

impl Compiler {
    fn node(&mut self, value: &Value, path: &str, level: usize) -> Result<Node, Refused> {
        let object = self.enter(value, path, level)?;
        if let Some(group) = self.group(object, path, level, Self::node)? {
            return Ok(match group {
                Group::All(nodes) => Node::All(nodes),
                Group::Any(nodes) => Node::Any(nodes),
                Group::Not(node) => Node::Not(node),
            });
        }
        if object.contains_key("trait") {
            let (slot, test) = trait_test(&mut self.traits, object, path)?;
            self.profile_leaves.push(ProfileLeaf::Trait { slot, test });
            return Ok(self.leaf(path, value, LeafKind::Profile(self.profile_leaves.len() - 1)));
        }
        if object.contains_key("lifecycle") {
            self.profile_leaves.push(ProfileLeaf::Lifecycle(lifecycle(object, path)?));
            return Ok(self.leaf(path, value, LeafKind::Profile(self.profile_leaves.len() - 1)));
        }
        if object.contains_key("event") {
            let leaf = self.event(object, path, level)?;
            self.event_leaves.push(leaf);
            return Ok(self.leaf(path, value, LeafKind::Event(self.event_leaves.len() - 1)));
        }
        Err(Refused::new(path, "must be one of all, any, not, trait, event, lifecycle"))
    }

    fn leaf(&mut self, path: &str, value: &Value, kind: LeafKind) -> Node {
        self.leaves.push(Leaf { path: path.to_owned(), source: value.to_string(), kind });
        Node::Leaf(self.leaves.len() - 1)
    }

    fn condition(&mut self, value: &Value, path: &str, level: usize) -> Result<Where, Refused> {
        let object = self.enter(value, path, level)?;
        if let Some(group) = self.group(object, path, level, Self::condition)? {
            return Ok(match group {
                Group::All(nodes) => Where::All(nodes),
                Group::Any(nodes) => Where::Any(nodes),
                Group::Not(node) => Where::Not(node),
            });
        }
        if !object.contains_key("trait") {
            return Err(Refused::new(path, "must be one of all, any, not, trait"));
        }
        let (slot, test) = trait_test(&mut self.properties, object, path)?;
        Ok(Where::Test { slot, test })
    }

    fn enter<'v>(&mut self, value: &'v Value, path: &str, level: usize) -> Result<&'v Object, Refused> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Refused::new(path, format!("at most {NODES_MAX} conditions and groups")));
        }
        if level > LEVELS_MAX {
            return Err(Refused::new(path, format!("at most {LEVELS_MAX} levels")));
        }
        value.as_object().ok_or_else(|| Refused::new(path, "must be an object"))
    }

    fn group<T>(
        &mut self,
        object: &Object,
        path: &str,
        level: usize,
        each: fn(&mut Self, &Value, &str, usize) -> Result<T, Refused>,
    ) -> Result<Option<Group<T>>, Refused> {
        let Some((name, value)) =
            ["all", "any", "not"].iter().find_map(|name| object.get(*name).map(|value| (*name, value)))
        else {
            return Ok(None);
        };
        only(object, &[name], path)?;
        let inner = join(path, name);
        if name == "not" {
            return each(self, value, &inner, level + 1).map(|node| Some(Group::Not(Box::new(node))));
        }
        let list = value.as_array().ok_or_else(|| Refused::new(&inner, "must be a list"))?;
        let nodes = list
            .iter()
            .enumerate()
            .map(|(i, value)| each(self, value, &join(&inner, &i.to_string()), level + 1))
            .collect::<Result<_, _>>()?;
        Ok(Some(if name == "all" { Group::All(nodes) } else { Group::Any(nodes) }))
    }

    fn event(&mut self, object: &Object, path: &str, level: usize) -> Result<EventLeaf, Refused> {
        only(object, &["event", "op", "value", "window", "where"], path)?;
        let name = text(object, "event", path, NAME_CHARS_MAX)?;
        let op = text(object, "op", path, NAME_CHARS_MAX)?;
        let counts = matches!(op, "count_gte" | "count_lte");
        if !counts && object.get("window").is_some_and(|window| !window.is_null()) {
            return Err(Refused::new(join(path, "window"), "only for count_gte and count_lte"));
        }
        let (since, compare) = match op {
            "occurred" => (Since::Ever, Compare::AtLeast(1)),
            "not_occurred" => (Since::Ever, Compare::AtMost(0)),
            "occurred_in_last" => (Since::Span(duration(object, "value", path)?), Compare::AtLeast(1)),
            "not_occurred_in_last" => (Since::Span(duration(object, "value", path)?), Compare::AtMost(0)),
            "count_gte" => (window(object, path)?, Compare::AtLeast(threshold(object, path)?)),
            "count_lte" => (window(object, path)?, Compare::AtMost(threshold(object, path)?)),
            _ => {
                let ops = "occurred, not_occurred, occurred_in_last, not_occurred_in_last, count_gte, count_lte";
                return Err(Refused::new(join(path, "op"), format!("must be one of {ops}")));
            }
        };
        let condition = match object.get("where") {
            None | Some(Value::Null) => None,
            Some(tree) => Some(self.condition(tree, &join(path, "where"), level + 1)?),
        };
        let synonym = SYNONYMS.iter().find(|(a, b)| *a == name || *b == name);
        let types = synonym.map_or_else(|| vec![name.to_owned()], |(a, b)| vec![(*a).to_owned(), (*b).to_owned()]);
        // A map of serde_json is sorted by key, so equal conditions have equal texts.
        let stream = condition.as_ref().and_then(|_| object.get("where")).map(Value::to_string);
        Ok(EventLeaf { types, since, condition, stream, compare, counts })
    }
}

fn trait_test(names: &mut Vec<String>, object: &Object, path: &str) -> Result<(usize, Test), Refused> {
    only(object, &["trait", "op", "value"], path)?;
    let name = text(object, "trait", path, NAME_CHARS_MAX)?;
    let op = text(object, "op", path, NAME_CHARS_MAX)?;
    let place = join(path, "value");
    let value = object.get("value").unwrap_or(&Value::Null);
    let order = |order| match scalar(value, &place)? {
        Scalar::Bool(_) => Err(Refused::new(&place, "must be a string or a number")),
        bound => Ok(Test::Order(order, bound)),
    };
    let test = match op {
        "eq" => Test::Eq(scalar(value, &place)?),
        "neq" => Test::Neq(scalar(value, &place)?),
        "gt" => order(Order::Gt)?,
        "gte" => order(Order::Gte)?,
        "lt" => order(Order::Lt)?,
        "lte" => order(Order::Lte)?,
        "in" => Test::In(set(value, &place)?),
        "not_in" => Test::NotIn(set(value, &place)?),
        "contains" => Test::Contains(scalar(value, &place)?),
        "starts_with" => match scalar(value, &place)? {
            Scalar::Text(prefix) => Test::StartsWith(prefix),
            _ => return Err(Refused::new(place, "must be a string")),
        },
        "exists" => Test::Exists,
        "not_set" => Test::NotSet,
        _ => {
            let ops = "eq, neq, gt, gte, lt, lte, in, not_in, contains, starts_with, exists, not_set";
            return Err(Refused::new(join(path, "op"), format!("must be one of {ops}")));
        }
    };
    let slot = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    Ok((slot, test))
}

/// `{lifecycle: "stage", op, value}`; the stage may also stand under `lifecycle` itself, when there is no value.
fn lifecycle(object: &Object, path: &str) -> Result<Vec<String>, Refused> {
    only(object, &["lifecycle", "op", "value"], path)?;
    let op = text(object, "op", path, NAME_CHARS_MAX)?;
    let field = if object.get("value").is_some_and(|value| !value.is_null()) { "value" } else { "lifecycle" };
    let place = join(path, field);
    let stage = |value: &Value| match value.as_str() {
        Some("dormant") => Ok("at_risk".to_owned()),
        Some(stage) if STAGES.contains(&stage) => Ok(stage.to_owned()),
        _ => Err(Refused::new(&place, format!("must be one of {}", STAGES.join(", ")))),
    };
    match (op, &object[field]) {
        ("eq", value) => Ok(vec![stage(value)?]),
        ("in", Value::Array(list)) if list.len() <= STAGES.len() => list.iter().map(stage).collect(),
        ("in", _) => Err(Refused::new(place, "must be a list of stages")),
        _ => Err(Refused::new(join(path, "op"), "must be one of eq, in")),
    }
}

fn scalar(value: &Value, path: &str) -> Result<Scalar, Refused> {
    match value {
        Value::String(text) if text.chars().count() <= TEXT_CHARS_MAX => Ok(Scalar::Text(text.clone())),
        Value::String(_) => Err(Refused::new(path, format!("at most {TEXT_CHARS_MAX} characters"))),
        Value::Bool(value) => Ok(Scalar::Bool(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(int) => Ok(Scalar::Number(Number::Int(int))),
            None => Ok(Scalar::Number(Number::Float(number.as_f64().unwrap_or(f64::NAN)))),
        },
        _ => Err(Refused::new(path, "must be a string, a number or a boolean")),
    }
}

fn set(value: &Value, path: &str) -> Result<Set, Refused> {
    let list = value.as_array().ok_or_else(|| Refused::new(path, "must be a list"))?;
    if list.len() > LIST_MAX {
        return Err(Refused::new(path, format!("at most {LIST_MAX} values")));
    }
    let mut set = Set::default();
    for (i, value) in list.iter().enumerate() {
        set.insert(scalar(value, &join(path, &i.to_string()))?);
    }
    Ok(set)
}

fn text<'v>(object: &'v Object, name: &str, path: &str, chars_max: usize) -> Result<&'v str, Refused> {
    match object.get(name) {
        None | Some(Value::Null) => Err(Refused::new(join(path, name), "Required")),
        Some(Value::String(text)) if (1..=chars_max).contains(&text.chars().count()) => Ok(text),
        Some(_) => Err(Refused::new(join(path, name), format!("must be a string of 1 to {chars_max} characters"))),
    }
}

/// "30d", "12h", "45m", "90s", "2w" in milliseconds.
fn duration(object: &Object, name: &str, path: &str) -> Result<i64, Refused> {
    let refused = || {
        Refused::new(
            join(path, name),
            format!("must be a duration such as \"30d\" (s, m, h, d, w), at most {SPAN_DAYS_MAX}d"),
        )
    };
    let text = object.get(name).and_then(Value::as_str).ok_or_else(refused)?;
    let unit = text.chars().next_back().ok_or_else(refused)?;
    let unit_ms = match unit {
        's' => SECOND_MS,
        'm' => 60 * SECOND_MS,
        'h' => 3_600 * SECOND_MS,
        'd' => DAY_MS,
        'w' => 7 * DAY_MS,
        _ => return Err(refused()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    let span_ms = digits.parse::<i64>().map_err(|_| refused())? * unit_ms;
    if (1..=SPAN_DAYS_MAX * DAY_MS).contains(&span_ms) { Ok(span_ms) } else { Err(refused()) }
}

fn window(object: &Object, path: &str) -> Result<Since, Refused> {
    if object.get("window").is_none_or(Value::is_null) {
        return Ok(Since::Ever);
    }
    let span_ms = duration(object, "window", path)?;
    let days = span_ms / DAY_MS;
    Ok(if span_ms % DAY_MS == 0 && days >= DAY_WINDOW_MIN { Since::Days(days - 1) } else { Since::Span(span_ms) })
}

fn threshold(object: &Object, path: &str) -> Result<u32, Refused> {
    let count = object.get("value").and_then(Value::as_u64).filter(|&count| count <= 1_000_000_000);
    count
        .map(|count| count as u32)
        .ok_or_else(|| Refused::new(join(path, "value"), "must be an integer from 0 to 1000000000"))
}

fn only(object: &Object, known: &[&str], path: &str) -> Result<(), Refused> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Refused::new(join(path, key), "unknown field")),
        None => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
