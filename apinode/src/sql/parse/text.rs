//! The text of a query before it is parsed: cut into statements, without comments, with what the parser does not know
//! written otherwise. It is bounded here, since the parser's tokens take many times the memory of their text, and since a
//! chain of operators becomes a tree as deep as it is long.

use crate::sql::error::{SqlError, codes};

/// Words, literals and signs of a statement.
pub const TOKENS_MAX: usize = 262_144;
/// AND and OR in a chain; those of the parentheses around it count.
const LOGIC_MAX: usize = 1024;
/// Other operators in a chain.
const OPERATORS_MAX: usize = 256;
/// What BETWEEN counts for: its AND hides the operators before it.
const BETWEEN_WEIGHT: usize = 16;
/// Versions of comments that are read: `/*!80000 … */`.
const COMMENT_VERSION: u32 = 80_000;

/// Cuts a query into its statements; those of which nothing is left are left out.
///
/// # Errors
/// 1300 for text that is not UTF-8, 1235 for too many tokens, 1436 for too long chains, 1064 for what is not closed.
pub fn split(query: &[u8]) -> Result<Vec<String>, SqlError> {
    let mut cutter = Cutter { query, at: 0, out: Vec::new(), statements: Vec::new(), ..Cutter::default() };
    while cutter.at < query.len() {
        cutter.step()?;
    }
    cutter.finish()?;
    Ok(cutter.statements)
}

#[derive(Default)]
struct Cutter<'q> {
    query: &'q [u8],
    at: usize,
    out: Vec<u8>,
    statements: Vec<String>,
    tokens: usize,
    /// Of each parenthesis that is open, and of what is around them: how long its chain is.
    chains: Vec<Chain>,
    chain: Chain,
    /// In a comment that is read.
    in_hint: bool,
    /// Where in `out` the last word begins, if nothing but space has come since.
    word: Option<usize>,
}

#[derive(Clone, Copy, Default)]
struct Chain {
    logic: usize,
    operators: usize,
}

impl Cutter<'_> {
    fn rest(&self) -> &[u8] {
        &self.query[self.at..]
    }

    fn step(&mut self) -> Result<(), SqlError> {
        let rest = self.rest();
        let after = |count: usize| rest.get(count).copied();
        match rest[0] {
            b'\'' | b'"' | b'`' => self.quoted(rest[0]),
            b'#' => self.skip_line(),
            b'-' if after(1) == Some(b'-') && after(2).is_none_or(|byte| byte <= b' ') => self.skip_line(),
            b'/' if after(1) == Some(b'*') => self.comment(),
            b'*' if after(1) == Some(b'/') && self.in_hint => {
                self.in_hint = false;
                self.at += 2;
                self.out.push(b' ');
                Ok(())
            }
            b';' => {
                self.at += 1;
                self.finish()
            }
            byte if byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'_' | b'$' | b'@') => {
                self.word()
            }
            byte if byte.is_ascii_whitespace() => {
                self.at += 1;
                self.out.push(byte);
                Ok(())
            }
            byte => self.sign(byte),
        }
    }

    fn token(&mut self) -> Result<(), SqlError> {
        self.tokens += 1;
        if self.tokens > TOKENS_MAX {
            return Err(SqlError::not_supported(format_args!("statements of more than {TOKENS_MAX} tokens")));
        }
        Ok(())
    }

    fn sign(&mut self, byte: u8) -> Result<(), SqlError> {
        self.token()?;
        self.word = None;
        self.at += 1;
        self.out.push(byte);
        match byte {
            b'(' => self.chains.push(std::mem::take(&mut self.chain)),
            b')' => self.chain = self.chains.pop().unwrap_or_default(),
            b',' => self.chain = Chain::default(),
            b'&' | b'|' if self.rest().first() == Some(&byte) => self.logic(1)?,
            b'.' | b'?' | b':' | b'{' | b'}' | b'[' | b']' => {}
            _ => {
                self.chain.operators += 1;
                let all =
                    self.chains.iter().map(|chain| chain.operators).sum::<usize>() + self.chain.operators;
                if all > OPERATORS_MAX {
                    return Err(too_deep(OPERATORS_MAX, "operators"));
                }
            }
        }
        Ok(())
    }

    fn logic(&mut self, weight: usize) -> Result<(), SqlError> {
        self.chain.logic += weight;
        self.chain.operators = 0;
        let all = self.chains.iter().map(|chain| chain.logic).sum::<usize>() + self.chain.logic;
        if all > LOGIC_MAX { Err(too_deep(LOGIC_MAX, "AND and OR")) } else { Ok(()) }
    }

    fn word(&mut self) -> Result<(), SqlError> {
        self.token()?;
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80 || matches!(byte, b'_' | b'$' | b'@');
        let length = self.rest().iter().take_while(|byte| is_part(byte)).count();
        let word = &self.query[self.at..][..length];
        self.word = Some(self.out.len());
        self.out.extend_from_slice(word);
        self.at += length;
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("and") || is("or") {
            self.logic(1)
        } else if is("between") {
            self.logic(BETWEEN_WEIGHT)
        } else if ["not", "xor", "div", "mod", "is", "in", "like", "regexp", "rlike", "collate", "escape"]
            .into_iter()
            .any(is)
        {
            self.chain.operators += 1;
            Ok(())
        } else {
            Ok(())
        }
    }

    /// Takes over what stands in quotes; bytes that are declared binary, or are no text, become digits.
    fn quoted(&mut self, quote: u8) -> Result<(), SqlError> {
        self.token()?;
        let mut bytes = Vec::new();
        let start = self.at;
        self.at += 1;
        loop {
            let Some(&byte) = self.rest().first() else {
                let text = String::from_utf8_lossy(&self.query[start..]).chars().take(40).collect::<String>();
                return Err(SqlError::new(
                    codes::SYNTAX,
                    format!("You have an error in your SQL syntax: unclosed quote near '{text}'"),
                ));
            };
            self.at += 1;
            match byte {
                b'\\' if quote != b'`' => {
                    let Some(&escaped) = self.rest().first() else { continue };
                    self.at += 1;
                    bytes.push(unescaped(escaped));
                }
                _ if byte == quote && self.rest().first() == Some(&quote) => {
                    self.at += 1;
                    bytes.push(quote);
                }
                _ if byte == quote => break,
                _ => bytes.push(byte),
            }
        }
        let binary = self.word.filter(|&word| {
            quote != b'`' && self.out[word..].trim_ascii_end().eq_ignore_ascii_case(b"_binary")
        });
        // Clients that do not declare it send binary so, too.
        let undeclared = quote != b'`' && str::from_utf8(&bytes).is_err();
        if binary.is_some() || undeclared {
            self.out.truncate(binary.unwrap_or(self.out.len()));
            let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            self.out.extend_from_slice(format!("X'{digits}'").as_bytes());
        } else {
            self.out.extend_from_slice(&self.query[start..self.at]);
        }
        self.word = None;
        Ok(())
    }

    fn skip_line(&mut self) -> Result<(), SqlError> {
        let length = self.rest().iter().take_while(|&&byte| byte != b'\n').count();
        self.at += length;
        self.out.push(b' ');
        Ok(())
    }

    /// Skips a comment, but for one that is meant to be read: `/*! … */`, `/*!80000 … */`.
    fn comment(&mut self) -> Result<(), SqlError> {
        if self.rest().get(2) == Some(&b'!') && !self.in_hint {
            let digits = self.rest()[3..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let version =
                str::from_utf8(&self.rest()[3..3 + digits]).unwrap_or_default().parse().unwrap_or(0);
            if version <= COMMENT_VERSION {
                self.in_hint = true;
                self.at += 3 + digits;
                self.out.push(b' ');
                return Ok(());
            }
        }
        let end = self.rest().windows(2).skip(2).position(|pair| pair == b"*/");
        let Some(end) = end else {
            return Err(SqlError::new(
                codes::SYNTAX,
                "You have an error in your SQL syntax: unclosed comment",
            ));
        };
        self.at += end + 4;
        self.out.push(b' ');
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SqlError> {
        if self.in_hint && self.at >= self.query.len() {
            return Err(SqlError::new(
                codes::SYNTAX,
                "You have an error in your SQL syntax: unclosed comment",
            ));
        }
        let bytes = std::mem::take(&mut self.out);
        (self.tokens, self.word, self.chain) = (0, None, Chain::default());
        self.chains.clear();
        let text = String::from_utf8(bytes).map_err(|error| {
            let near: String = error.as_bytes().escape_ascii().to_string().chars().take(40).collect();
            SqlError::new(codes::NOT_UTF8, format!("Invalid utf8mb4 character string: '{near}'"))
        })?;
        let trimmed = text.trim();
        if !trimmed.is_empty() {
            self.statements.push(trimmed.to_owned());
        }
        Ok(())
    }
}

fn too_deep(most: usize, what: &str) -> SqlError {
    SqlError::new(
        codes::STACK_OVERRUN,
        format!("Thread stack overrun: an expression has more than {most} {what}"),
    )
}

fn unescaped(escaped: u8) -> u8 {
    match escaped {
        b'0' => 0,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'Z' => 26,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(query: &str) -> Vec<String> {
        split(query.as_bytes()).unwrap()
    }

    #[test]
    fn statements_end_where_they_should() {
        assert_eq!(cut("SELECT 1; SELECT 2;"), ["SELECT 1", "SELECT 2"]);
        assert_eq!(cut(";; ;"), [""; 0]);
        assert_eq!(
            cut("SELECT ';', \"a;b\", `c;d`, 'it''s\\';'; x"),
            ["SELECT ';', \"a;b\", `c;d`, 'it''s\\';'", "x"]
        );
        assert_eq!(
            cut("a -- b; c\n; d # e ;\n/* f; */ g --h"),
            ["a", "d   g --h"].map(|text| text.replace("d   g", "d  \n  g"))
        );
        assert_eq!(
            cut("/*!40101 SET NAMES x */; /*!99999 y */ z /*M!1 q */ /*! w */"),
            ["SET NAMES x", "z     w"]
        );
    }

    #[test]
    fn binary_literals_become_digits() {
        assert_eq!(
            split(b"SELECT _binary 'a\\0\xff''', _BINARY\"b\"").unwrap(),
            ["SELECT X'6100FF27', X'62'"]
        );
        assert_eq!(split(b"SELECT '\xff', \"\xe4\"").unwrap(), ["SELECT X'FF', X'E4'"]);
        assert_eq!(split(b"SELECT \xff").unwrap_err().number(), 1300);
        assert_eq!(split("SELECT 'ä', bär".as_bytes()).unwrap(), ["SELECT 'ä', bär"]);
    }

    #[test]
    fn what_is_too_much_or_not_closed_is_refused() {
        let number = |query: String| split(query.as_bytes()).unwrap_err().number();
        assert_eq!(number("'abc".into()), 1064);
        assert_eq!(number("`abc''".into()), 1064);
        assert_eq!(number("/* abc".into()), 1064);
        assert_eq!(number("/*! abc".into()), 1064);
        assert_eq!(number("1,".repeat(TOKENS_MAX)), 1235);
        assert_eq!(number(format!("SELECT 1{}", "+1".repeat(300))), 1436);
        assert_eq!(number(format!("SELECT 1{}", "+(1".repeat(300))), 1436);
        assert_eq!(number(format!("SELECT 1{}", " BETWEEN 1 AND 1".repeat(100))), 1436);
        assert_eq!(number(format!("SELECT 1{}", " OR a = 1".repeat(2000))), 1436);
        assert_eq!(split(format!("SELECT 1{}", " OR a = 1 + 2".repeat(1000)).as_bytes()).unwrap().len(), 1);
        assert_eq!(split(format!("SELECT 1{}", ", 1 + 2 AND 1".repeat(1000)).as_bytes()).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn odd_bytes_never_panic(bytes: Vec<u8>, near in "[a'\"`;/*!\\-# _binary(),+]{0,40}") {
            let _ = split(&bytes);
            let _ = split(near.as_bytes());
        }

        #[test]
        fn one_by_one_or_together(
            texts in proptest::collection::vec("([a-z0-9 ,.()]{1,8}|'[a-z;(]{0,4}(''[a-z;]{0,4})?'){1,4}", 1..5),
        ) {
            let alone = texts.iter().flat_map(|text| split(text.as_bytes()).unwrap());
            let alone: Vec<String> = alone.collect();
            prop_assert_eq!(split(texts.join(";").as_bytes()).unwrap(), alone);
        }
    }
}
