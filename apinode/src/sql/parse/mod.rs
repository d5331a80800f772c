//! Text → syntax tree. The grammar is the crate `sqlparser`'s, of MySQL's dialect.

pub mod text;

use sqlparser::{
    ast,
    dialect::MySqlDialect,
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

use super::error::{SqlError, codes};

/// How deep expressions and queries may stand in each other.
const DEPTH_MAX: usize = 48;
/// How deep queries may stand in each other: each takes more of the stack than an expression does.
const QUERIES_MAX: usize = 8;
/// Queries of a statement, and sets of theirs: each is a step that the next one stands on.
const QUERIES_IN_ALL_MAX: usize = 64;
/// Placeholders of a statement: the protocol counts them with 16 bits.
const PLACEHOLDERS_MAX: usize = u16::MAX as usize;

/// Statements of MySQL's that this version does not have and the parser might not know, by their first words.
const REFUSED: [&str; 34] = [
    "load",
    "call",
    "handler",
    "do",
    "grant",
    "revoke",
    "create user",
    "alter user",
    "drop user",
    "rename",
    "flush",
    "reset",
    "lock",
    "unlock",
    "kill",
    "install",
    "uninstall",
    "analyze",
    "check",
    "checksum",
    "optimize",
    "repair",
    "xa",
    "prepare",
    "execute",
    "deallocate",
    "change",
    "purge",
    "signal",
    "resignal",
    "get",
    "help",
    "shutdown",
    "with",
];

/// A statement as it was written.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// Its syntax tree.
    pub statement: ast::Statement,
    /// Where its placeholders are, in their order.
    placeholders: Vec<Location>,
    /// The texts of what it selects.
    pub items: Vec<String>,
    /// The columns by which a new table's rows are placed, where it says so; none: all of the primary key.
    pub partition_by: Option<Vec<String>>,
}

impl Parsed {
    /// How many placeholders it has.
    pub fn placeholders(&self) -> usize {
        self.placeholders.len()
    }

    /// Which placeholder stands here.
    pub fn placeholder(&self, at: Location) -> Option<usize> {
        self.placeholders.binary_search(&at).ok()
    }
}

/// Parses one statement, as [`text::split`] gives it.
///
/// # Errors
/// 1064 with the place for what is none; 1235 for statements that this version does not have.
pub fn parse(text: &str) -> Result<Parsed, SqlError> {
    let mut words = text.split_whitespace().map(str::to_lowercase);
    let first = words.next().unwrap_or_default();
    let both = format!("{first} {}", words.next().unwrap_or_default());
    if let Some(name) = REFUSED.iter().find(|name| **name == first || **name == both) {
        return Err(SqlError::not_supported(name.to_uppercase()));
    }
    let dialect = MySqlDialect {};
    let syntax = |error: ParserError| match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => {
            SqlError::new(codes::SYNTAX, format!("You have an error in your SQL syntax: {text}"))
        }
        ParserError::RecursionLimitExceeded => SqlError::new(
            codes::STACK_OVERRUN,
            format!("Thread stack overrun: nested deeper than {DEPTH_MAX}"),
        ),
    };
    let tokens =
        Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|error| syntax(error.into()))?;
    let mut tokens = known_operators(tokens)?;
    if first == "alter" {
        known_keys(&mut tokens);
    }
    let partition_by = if first == "create" { take_partitioning(&mut tokens)? } else { None };
    check_queries(&tokens)?;
    let placeholders: Vec<Location> = tokens
        .iter()
        .filter(|token| matches!(token.token, Token::Placeholder(_)))
        .map(|token| token.span.start)
        .collect();
    if placeholders.len() > PLACEHOLDERS_MAX {
        let text = "Prepared statement contains too many placeholders";
        return Err(SqlError::new(codes::TOO_MANY_PLACEHOLDERS, text));
    }
    let items = items(text, &tokens);
    let mut parser = Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(syntax)?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let text = format!("Expected: end of statement, found: {}{}", next.token, next.span.start);
        return Err(syntax(ParserError::ParserError(text)));
    }
    Ok(Parsed { statement, placeholders, items, partition_by })
}

/// `DROP KEY` is `DROP INDEX`, which the parser knows.
fn known_keys(tokens: &mut [TokenWithSpan]) {
    let mut after_drop = false;
    for token in tokens {
        match &mut token.token {
            Token::Whitespace(_) => continue,
            Token::Word(word) if after_drop && word.keyword == Keyword::KEY => {
                (word.keyword, word.value) = (Keyword::INDEX, "INDEX".to_owned());
            }
            _ => {}
        }
        after_drop = matches!(&token.token, Token::Word(word) if word.keyword == Keyword::DROP);
    }
}

/// Takes out `PARTITION BY KEY (a, b)` at the end of a CREATE TABLE, which the parser does not know; the columns.
fn take_partitioning(tokens: &mut Vec<TokenWithSpan>) -> Result<Option<Vec<String>>, SqlError> {
    let mut depth = 0usize;
    let visible: Vec<usize> = (0..tokens.len())
        .filter(|&at| !matches!(tokens[at].token, Token::Whitespace(_) | Token::EOF))
        .collect();
    let is = |place: usize, keyword: Keyword| {
        let token = visible.get(place).map(|&at| &tokens[at].token);
        matches!(token, Some(Token::Word(word)) if word.quote_style.is_none() && word.keyword == keyword)
    };
    let begin = (0..visible.len()).find(|&place| {
        match tokens[visible[place]].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is(place, Keyword::PARTITION) && is(place + 1, Keyword::BY)
    });
    let Some(begin) = begin else { return Ok(None) };
    let mut rest = visible[begin + 2..].iter().map(|&at| &tokens[at].token);
    let method = rest.next().map(Token::to_string).unwrap_or_default();
    if !method.eq_ignore_ascii_case("key") {
        return Err(SqlError::not_supported(format_args!("PARTITION BY {}", method.to_uppercase())));
    }
    let wanted = |what: &str, found: Option<&Token>| {
        let found = found.map_or("end of statement".to_owned(), Token::to_string);
        let text = format!("You have an error in your SQL syntax: Expected: {what}, found: {found}");
        SqlError::new(codes::SYNTAX, text)
    };
    match rest.next() {
        Some(Token::LParen) => {}
        other => return Err(wanted("( after PARTITION BY KEY", other)),
    }
    let mut columns = Vec::new();
    loop {
        match rest.next() {
            Some(Token::RParen) if columns.is_empty() => break,
            Some(Token::Word(word)) => columns.push(word.value.clone()),
            other => return Err(wanted("a column to partition by", other)),
        }
        match rest.next() {
            Some(Token::RParen) => break,
            Some(Token::Comma) => {}
            other => return Err(wanted(", or )", other)),
        }
    }
    if let Some(more) = rest.next() {
        return Err(SqlError::not_supported(format_args!("{more} after PARTITION BY KEY")));
    }
    let (from, to) = (visible[begin], visible[visible.len() - 1]);
    tokens.drain(from..=to);
    Ok(Some(columns))
}

/// `a MOD b` is `a % b`, which the parser knows.
fn known_operators(mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut after_operand = false;
    for token in &mut tokens {
        let is_operand = match &token.token {
            Token::Whitespace(_) => continue,
            Token::ExclamationMark => return Err(SqlError::not_supported("operator !")),
            Token::Word(word)
                if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("mod") && after_operand =>
            {
                token.token = Token::Mod;
                false
            }
            Token::Word(word) => word.keyword == Keyword::NoKeyword || word.keyword == Keyword::NULL,
            Token::Number(..) | Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => true,
            Token::HexStringLiteral(_) | Token::Placeholder(_) | Token::RParen => true,
            _ => false,
        };
        after_operand = is_operand;
    }
    Ok(tokens)
}

/// Refuses queries that are too many, or stand too deep in each other.
fn check_queries(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    // Of each parenthesis that is open: whether a query stands in it. The last ones may have opened just before this token.
    let (mut open, mut just_opened): (Vec<bool>, usize) = (Vec::new(), 0);
    let (mut selects, mut sets) = (0, 0);
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => {
                open.push(false);
                just_opened += 1;
                continue;
            }
            Token::RParen => drop(open.pop()),
            Token::Word(word) if word.quote_style.is_none() => match word.keyword {
                Keyword::SELECT => {
                    selects += 1;
                    // `((SELECT 1) LIMIT 1)`: a query in a query.
                    open.iter_mut().rev().take(just_opened.max(1)).for_each(|query| *query = true);
                    if open.iter().filter(|query| **query).count() > QUERIES_MAX {
                        let text = format!("Thread stack overrun: queries nested deeper than {QUERIES_MAX}");
                        return Err(SqlError::new(codes::STACK_OVERRUN, text));
                    }
                }
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => sets += 1,
                _ => {}
            },
            _ => {}
        }
        just_opened = 0;
    }
    if selects > QUERIES_IN_ALL_MAX || sets > QUERIES_IN_ALL_MAX {
        let what = format!("a statement of more than {QUERIES_IN_ALL_MAX} queries");
        return Err(SqlError::not_supported(what));
    }
    Ok(())
}

/// The texts between SELECT, the commas that stand alone, and FROM: so are columns named that have no name.
fn items(text: &str, tokens: &[TokenWithSpan]) -> Vec<String> {
    let is_word = |token: &Token, word: &str| match token {
        Token::Word(found) => found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word),
        _ => false,
    };
    let mut visible = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    if !visible.next().is_some_and(|token| is_word(&token.token, "select")) {
        return Vec::new();
    }
    let offset = offsets(text);
    let (mut items, mut depth, mut from, mut to) = (Vec::new(), 0usize, None, 0);
    let mut end = |from: &mut Option<usize>, to: usize| {
        if let Some(from) = from.take() {
            items.push(text.get(from..to).unwrap_or_default().to_owned());
        }
    };
    for token in visible {
        let ends = ["from", "where", "limit", "order", "for", "union", "group", "having"];
        match &token.token {
            Token::Comma if depth == 0 => {
                end(&mut from, to);
                continue;
            }
            Token::EOF => break,
            word if depth == 0 && ends.into_iter().any(|end| is_word(word, end)) => break,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        from.get_or_insert(offset(token.span.start));
        to = offset(token.span.end);
    }
    end(&mut from, to);
    items
}

/// Byte offsets of places, which count lines and characters from 1.
fn offsets(text: &str) -> impl Fn(Location) -> usize + '_ {
    let starts: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    move |place| {
        let line = starts.get((place.line as usize).saturating_sub(1)).copied().unwrap_or(text.len());
        let column = (place.column as usize).saturating_sub(1);
        text[line..].char_indices().nth(column).map_or(text.len(), |(at, _)| line + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_the_place() {
        let error = parse("SELECT * FORM t").unwrap_err();
        assert_eq!(error.number(), 1064);
        assert!(error.text.contains("Line: 1, Column: 10"), "{error}");
        assert_eq!(parse("SELECT 1 2").unwrap_err().number(), 1064);
        assert_eq!(parse("").unwrap_err().number(), 1064);
        assert_eq!(
            parse(&format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500))).unwrap_err().number(),
            1436
        );
        assert_eq!(parse("LOAD DATA LOCAL INFILE 'x' INTO TABLE t").unwrap_err().number(), 1235);
        assert_eq!(
            parse("CREATE  USER x").unwrap_err().text,
            "This version of Twofold doesn't yet support 'CREATE USER'"
        );
    }

    #[test]
    fn what_places_rows_is_taken_out() {
        let columns = |text: &str| parse(text).map(|parsed| parsed.partition_by);
        let by = |text: &str| columns(&format!("CREATE TABLE t (a INT, b INT, PRIMARY KEY (a, b)) {text}"));
        assert_eq!(by(""), Ok(None));
        assert_eq!(by("ENGINE=NDB PARTITION BY KEY (`a`, b)"), Ok(Some(vec!["a".into(), "b".into()])));
        assert_eq!(by("partition by key ()"), Ok(Some(vec![])));
        let number = |text: &str| by(text).unwrap_err().number();
        assert_eq!(
            (number("PARTITION BY HASH (a)"), number("PARTITION BY KEY (a) PARTITIONS 4")),
            (1235, 1235)
        );
        assert_eq!((number("PARTITION BY KEY"), number("PARTITION BY KEY (a")), (1064, 1064));
    }

    #[test]
    fn placeholders_are_counted_in_their_order() {
        let parsed = parse("SELECT ?, '?', a FROM t WHERE b = ? AND c = ?").unwrap();
        assert_eq!(parsed.placeholders(), 3);
        assert_eq!(parsed.placeholder(Location::new(1, 35)), Some(1));
        assert_eq!(parsed.placeholder(Location::new(1, 36)), None);
    }

    #[test]
    fn items_are_named_as_they_are_written() {
        let items = |text: &str| parse(text).unwrap().items;
        assert_eq!(items("SELECT 1+1,\n  'ä' ,f( a, b ) FROM t"), ["1+1", "'ä'", "f( a, b )"]);
        assert_eq!(items("SELECT a"), ["a"]);
        assert_eq!(items("DELETE FROM t"), [""; 0]);
    }

    #[test]
    fn queries_are_bounded_in_number_and_depth() {
        let number = |text: &str| parse(text).map_or_else(|error| error.number(), |_| 0);
        let union = |count: usize| vec!["SELECT 1"; count].join(" UNION ");
        assert_eq!((number(&union(64)), number(&union(65)), number(&union(20_000))), (0, 1235, 1235));
        assert_eq!(number(&format!("TABLE a{}", " UNION TABLE a".repeat(20_000))), 1235);
        let items = |count: usize| format!("SELECT {}", vec!["(SELECT a.x)"; count].join(","));
        assert_eq!((number(&items(63)), number(&items(64))), (0, 1235));
        let limited = |depth: usize| format!("{}SELECT 1{}", "(".repeat(depth), ") LIMIT 1".repeat(depth));
        assert_eq!((number(&limited(8)), number(&limited(9))), (0, 1436));
        assert_eq!(number("SELECT ((((((((((1))))))))))"), 0);
    }

    /// Threads of an API node have stacks of this size, as tests have.
    #[test]
    fn long_chains_fit_the_stack() {
        for text in [format!("SELECT 1{}", " OR a = 1".repeat(1000)), format!("SELECT 1{}", "+1".repeat(255))]
        {
            let statements = text::split(text.as_bytes()).unwrap();
            drop(parse(&statements[0]).unwrap());
        }
    }
}
