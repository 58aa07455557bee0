//! The locale chain (B114, B115, C40): the exact tag, then the two-letter language, then the text without a tag.

/// Texts by tag. Tags compare without case, and "_" is "-".
#[derive(Debug, Clone)]
pub struct Localized<T>(Vec<(String, T)>);

impl<T> Default for Localized<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Localized<T> {
    pub fn new(texts: impl Iterator<Item = (String, T)>) -> Self {
        Self(texts.map(|(tag, text)| (fold(&tag), text)).collect())
    }

    pub fn find(&self, locale: Option<&str>) -> Option<&T> {
        self.entry(locale).map(|(_, text)| text)
    }

    /// The tag under which the text of `find` stands.
    pub fn tag(&self, locale: Option<&str>) -> Option<&str> {
        self.entry(locale).map(|(tag, _)| tag.as_str())
    }

    fn entry(&self, locale: Option<&str>) -> Option<&(String, T)> {
        if self.0.is_empty() {
            return None;
        }
        let locale = fold(locale?);
        let exact = |tag: &str| self.0.iter().find(|(key, _)| key == tag);
        exact(&locale).or_else(|| language(&locale).and_then(exact))
    }
}

/// The tags that are looked for, in their order.
pub fn chain(locale: Option<&str>) -> Vec<String> {
    let Some(locale) = locale.map(fold) else { return Vec::new() };
    let language = language(&locale).map(str::to_owned);
    [Some(locale), language].into_iter().flatten().collect()
}

fn language(locale: &str) -> Option<&str> {
    locale.split('-').next().filter(|language| language.len() == 2 && language.len() < locale.len())
}

fn fold(tag: &str) -> String {
    tag.replace('_', "-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_region_to_language_only() {
        let texts =
            Localized::new([("es", 1), ("pt-BR", 2), ("fil", 3)].map(|(tag, text)| (tag.to_owned(), text)).into_iter());
        let find = |locale| texts.find(Some(locale)).copied();
        assert_eq!((find("es"), find("es-MX"), find("ES_mx"), find("pt_br")), (Some(1), Some(1), Some(1), Some(2)));
        assert_eq!(
            (find("pt"), find("pt-PT"), find("fil-PH"), find(""), texts.find(None)),
            (None, None, None, None, None)
        );
    }
}
