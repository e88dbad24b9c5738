//! tmp
#[derive(Debug, Clone)]
pub struct Matcher(pub String, pub String);
impl Matcher {
    pub fn name(&self) -> &str {
        &self.0
    }
    pub fn matches(&self, v: &str) -> bool {
        v == self.1
    }
    pub fn matches_empty(&self) -> bool {
        self.1.is_empty()
    }
}
