//! `--name value` pairs of a command line.

use std::{collections::HashMap, env, process, str::FromStr};

pub struct Args(HashMap<String, String>);

impl Args {
    pub fn parse() -> Self {
        let mut pairs = HashMap::new();
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { refuse(&format!("expected --name, not {word}")) };
            let Some(value) = words.next() else { refuse(&format!("--{name} needs a value")) };
            pairs.insert(name.to_owned(), value);
        }
        Self(pairs)
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| refuse(&format!("--{name} is missing")))
    }

    pub fn value<T: FromStr>(&self, name: &str) -> T {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| refuse(&format!("--{name} cannot be {text}")))
    }

    pub fn value_or<T: FromStr>(&self, name: &str, fallback: T) -> T {
        if self.0.contains_key(name) { self.value(name) } else { fallback }
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    process::exit(2);
}
