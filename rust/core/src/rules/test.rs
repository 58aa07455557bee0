//! One operator on one JSON value: the same for traits and for event properties.

use std::cmp::Ordering;
use std::collections::HashSet;

use crate::json::{Kind, Number, Raw, items};

#[derive(Debug)]
pub enum Test {
    Eq(Scalar),
    Neq(Scalar),
    Order(Order, Scalar),
    In(Set),
    NotIn(Set),
    Contains(Scalar),
    StartsWith(String),
    Exists,
    NotSet,
}

#[derive(Debug, Clone, Copy)]
pub enum Order {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Gt => ordering.is_gt(),
            Self::Gte => ordering.is_ge(),
            Self::Lt => ordering.is_lt(),
            Self::Lte => ordering.is_le(),
        }
    }
}

#[derive(Debug)]
pub enum Scalar {
    Text(String),
    Number(Number),
    Bool(bool),
}

impl Scalar {
    fn equals(&self, value: Raw<'_>) -> bool {
        match self {
            Self::Bool(wanted) => value.boolean() == Some(*wanted),
            _ => self.order(value) == Some(Ordering::Equal),
        }
    }

    /// How a value stands to this one; None when they do not compare. Text compares by code points, which sorts RFC
    /// 3339 dates of one offset by time.
    fn order(&self, value: Raw<'_>) -> Option<Ordering> {
        match self {
            Self::Text(wanted) => value.string().map(|text| text.as_ref().cmp(wanted)),
            Self::Number(wanted) => value.number().map(|number| number.compare(*wanted)),
            Self::Bool(_) => None,
        }
    }
}

/// Many scalars; texts by hash, because a list of ids is the usual case.
#[derive(Debug, Default)]
pub struct Set {
    texts: HashSet<String>,
    others: Vec<Scalar>,
}

impl Set {
    pub fn insert(&mut self, scalar: Scalar) {
        match scalar {
            Scalar::Text(text) => {
                self.texts.insert(text);
            }
            other => self.others.push(other),
        }
    }

    fn holds(&self, value: Raw<'_>) -> bool {
        match value.string() {
            Some(text) => self.texts.contains(text.as_ref()),
            None => self.others.iter().any(|scalar| scalar.equals(value)),
        }
    }
}

impl Test {
    /// `value` is None when it is missing.
    pub fn holds(&self, value: Option<Raw<'_>>) -> bool {
        let Some(value) = value.filter(|value| !value.is_null()) else { return matches!(self, Self::NotSet) };
        match self {
            Self::Eq(wanted) => wanted.equals(value),
            Self::Neq(wanted) => !wanted.equals(value),
            Self::Order(order, bound) => bound.order(value).is_some_and(|ordering| order.holds(ordering)),
            Self::In(set) => set.holds(value),
            Self::NotIn(set) => !set.holds(value),
            Self::Contains(wanted) => match (value.kind(), wanted) {
                (Kind::Array, _) => items(value).any(|item| wanted.equals(item)),
                (Kind::String, Scalar::Text(part)) => value.string().is_some_and(|text| text.contains(part)),
                _ => false,
            },
            Self::StartsWith(prefix) => value.string().is_some_and(|text| text.starts_with(prefix)),
            Self::Exists => true,
            Self::NotSet => false,
        }
    }
}
