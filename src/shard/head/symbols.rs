//! Strings of labels, each kept once, with a count of who uses it.
//!
//! A symbol's number is stable while anything uses it and is given again afterwards, so that churn
//! of series leaves nothing behind. The hash is keyed per process: strings come from strangers.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Number of a symbol.
pub(crate) type SymbolId = u32;

#[derive(Debug)]
struct Symbol {
    text: Box<str>,
    users: u32,
}

/// The symbols of a shard.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    table: HashTable<SymbolId>,
    symbols: Vec<Symbol>,
    free: Vec<SymbolId>,
    hasher: RandomState,
    text_bytes: usize,
}

impl Symbols {
    /// The number of a string; one more user of it.
    pub(crate) fn intern(&mut self, text: &str) -> SymbolId {
        let hash = self.hasher.hash_one(text);
        let symbols = &mut self.symbols;
        if let Some(&id) = self.table.find(hash, |&id| &*symbols[id as usize].text == text) {
            symbols[id as usize].users += 1;
            return id;
        }
        let symbol = Symbol { text: text.into(), users: 1 };
        self.text_bytes += text.len();
        let id = if let Some(id) = self.free.pop() {
            symbols[id as usize] = symbol;
            id
        } else {
            symbols.push(symbol);
            (symbols.len() - 1) as SymbolId
        };
        let hasher = &self.hasher;
        self.table.insert_unique(hash, id, |&id| hasher.hash_one(&*symbols[id as usize].text));
        id
    }

    /// One user less; the last one takes the string along.
    pub(crate) fn release(&mut self, id: SymbolId) {
        let symbol = &mut self.symbols[id as usize];
        assert!(symbol.users > 0, "a symbol is released once per use");
        symbol.users -= 1;
        if symbol.users > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*symbol.text);
        self.text_bytes -= symbol.text.len();
        symbol.text = Box::default();
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.free.push(id);
    }

    /// The string of a number in use.
    pub(crate) fn text(&self, id: SymbolId) -> &str {
        &self.symbols[id as usize].text
    }

    /// The number of a string that is in use.
    #[cfg(test)]
    pub(crate) fn find(&self, text: &str) -> Option<SymbolId> {
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |&id| &*self.symbols[id as usize].text == text).copied()
    }

    /// Numbers are below this.
    pub(crate) fn bound(&self) -> usize {
        self.symbols.len()
    }

    /// How many strings are in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of all strings in use.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_given_again() {
        let mut symbols = Symbols::default();
        let a = symbols.intern("a");
        let b = symbols.intern("b");
        assert_eq!(symbols.intern("a"), a);
        symbols.release(a);
        assert_eq!(symbols.text(a), "a", "still used once");
        symbols.release(a);
        assert_eq!((symbols.find("a"), symbols.find("b")), (None, Some(b)));
        assert_eq!(symbols.intern("c"), a, "the free number");
        assert_eq!((symbols.len(), symbols.bound(), symbols.text_bytes()), (2, 2, 2));
    }

    #[test]
    fn churn_leaves_nothing_behind() {
        let mut symbols = Symbols::default();
        for round in 0..100 {
            let ids: Vec<_> = (0..50).map(|i| symbols.intern(&format!("{round}/{i}"))).collect();
            for id in ids {
                symbols.release(id);
            }
        }
        assert_eq!((symbols.len(), symbols.bound(), symbols.text_bytes()), (0, 50, 0));
    }
}
