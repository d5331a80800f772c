//! The five transactions: what a terminal enters (clauses 2.4.1 to 2.8.1), how they are mixed, and what a driver answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use twofold_proto::random::Random;

use super::{
    random::{Constants, last_name, percent},
    schema::{DISTRICTS, Sizes},
};

/// Lines of an order.
pub const LINES_MAX: usize = 15;
/// Orders that Stock-Level looks at.
pub const ORDERS_LOOKED_AT: u64 = 20;

/// A kind of transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the specification's names")]
pub enum Kind {
    NewOrder,
    Payment,
    OrderStatus,
    Delivery,
    StockLevel,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] =
        [Kind::NewOrder, Kind::Payment, Kind::OrderStatus, Kind::Delivery, Kind::StockLevel];

    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        ["New-Order", "Payment", "Order-Status", "Delivery", "Stock-Level"][self as usize]
    }

    /// Its share of all, in percent.
    pub fn share(self) -> u64 {
        [45, 43, 4, 4, 4][self as usize]
    }

    /// How long a user types, in seconds.
    pub fn keying(self) -> f64 {
        [18.0, 3.0, 2.0, 2.0, 2.0][self as usize]
    }

    /// How long a user thinks, on average, in seconds.
    pub fn thinking(self) -> f64 {
        [12.0, 12.0, 10.0, 5.0, 5.0][self as usize]
    }

    /// The next one of the mix.
    fn draw(random: &mut Random) -> Kind {
        let mut drawn = random.below(100);
        for kind in Kind::ALL {
            match drawn.checked_sub(kind.share()) {
                None => return kind,
                Some(rest) => drawn = rest,
            }
        }
        unreachable!("the shares are 100 in all")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A line of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Which item; there is none of number 0.
    pub item: u64,
    /// The warehouse that supplies it.
    pub supply: u64,
    /// How many.
    pub quantity: i64,
}

/// What New-Order is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub struct NewOrder {
    pub warehouse: u64,
    pub district: u64,
    pub customer: u64,
    pub lines: Vec<Line>,
}

impl NewOrder {
    /// Whether all lines are supplied by the order's own warehouse.
    pub fn all_local(&self) -> bool {
        self.lines.iter().all(|line| line.supply == self.warehouse)
    }
}

/// By what a customer is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub enum Sought {
    Id(u64),
    LastName(String),
}

/// What Payment is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub struct Payment {
    pub warehouse: u64,
    pub district: u64,
    pub customer_warehouse: u64,
    pub customer_district: u64,
    pub customer: Sought,
    /// In hundredths.
    pub amount: i64,
}

/// What Order-Status is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub struct OrderStatus {
    pub warehouse: u64,
    pub district: u64,
    pub customer: Sought,
}

/// What Delivery is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub struct Delivery {
    pub warehouse: u64,
    pub carrier: i64,
}

/// What Stock-Level is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub struct StockLevel {
    pub warehouse: u64,
    pub district: u64,
    pub threshold: i64,
}

/// A transaction that is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub enum Transaction {
    NewOrder(NewOrder),
    Payment(Payment),
    OrderStatus(OrderStatus),
    Delivery(Delivery),
    StockLevel(StockLevel),
}

impl Transaction {
    /// Which of the five it is.
    pub fn kind(&self) -> Kind {
        match self {
            Transaction::NewOrder(_) => Kind::NewOrder,
            Transaction::Payment(_) => Kind::Payment,
            Transaction::OrderStatus(_) => Kind::OrderStatus,
            Transaction::Delivery(_) => Kind::Delivery,
            Transaction::StockLevel(_) => Kind::StockLevel,
        }
    }
}

/// How a transaction that was done has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It is committed.
    Committed,
    /// New-Order has met an item that there is not, as one in a hundred does.
    RolledBack,
}

/// Why a transaction was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What to do about it.
    pub class: FaultClass,
    /// What the report counts it under: a code, or a few words.
    pub name: String,
    /// What was said, for people.
    pub text: String,
}

/// What to do about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultClass {
    /// Nothing was applied: the same may be done at the next attempt.
    Retry,
    /// It may have been done, or not; to try it again could do it twice.
    Unknown,
    /// It will never be done as it is.
    Failed,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A place where somebody sits: it has a warehouse, and a district for Stock-Level, for good.
#[derive(Clone, Debug)]
pub struct Terminal {
    random: Random,
    sizes: Sizes,
    constants: Constants,
    warehouse: u64,
    district: u64,
}

impl Terminal {
    /// Terminal number `number`, from 0: each warehouse has one before one has a second.
    pub fn new(number: u64, sizes: Sizes, constants: Constants, random: Random) -> Terminal {
        let (warehouse, district) =
            (number % sizes.warehouses + 1, number / sizes.warehouses % DISTRICTS + 1);
        Terminal { random, sizes, constants, warehouse, district }
    }

    /// The terminal's own randomness.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// What is entered next.
    pub fn next(&mut self) -> Transaction {
        match Kind::draw(&mut self.random) {
            Kind::NewOrder => Transaction::NewOrder(self.new_order()),
            Kind::Payment => Transaction::Payment(self.payment()),
            Kind::OrderStatus => {
                let (warehouse, district) = (self.warehouse, self.any_district());
                Transaction::OrderStatus(OrderStatus { warehouse, district, customer: self.sought() })
            }
            Kind::Delivery => {
                let carrier = self.random.between(1, 10) as i64;
                Transaction::Delivery(Delivery { warehouse: self.warehouse, carrier })
            }
            Kind::StockLevel => {
                let threshold = self.random.between(10, 20) as i64;
                Transaction::StockLevel(StockLevel {
                    warehouse: self.warehouse,
                    district: self.district,
                    threshold,
                })
            }
        }
    }

    fn any_district(&mut self) -> u64 {
        self.random.between(1, DISTRICTS)
    }

    /// Another warehouse than the terminal's; its own where there is no other.
    fn remote(&mut self) -> u64 {
        if self.sizes.warehouses == 1 {
            return self.warehouse;
        }
        let drawn = self.random.between(1, self.sizes.warehouses - 1);
        drawn + u64::from(drawn >= self.warehouse)
    }

    fn sought(&mut self) -> Sought {
        let (sizes, constants) = (self.sizes, self.constants);
        match percent(&mut self.random, 60) {
            true => Sought::LastName(last_name(constants.name(&mut self.random, sizes.names()))),
            false => Sought::Id(constants.customer(&mut self.random, sizes.customers())),
        }
    }

    fn new_order(&mut self) -> NewOrder {
        let (sizes, constants) = (self.sizes, self.constants);
        let district = self.any_district();
        let customer = constants.customer(&mut self.random, sizes.customers());
        let count = self.random.between(5, LINES_MAX as u64);
        let mut lines: Vec<Line> = (0..count)
            .map(|_| {
                let item = constants.item(&mut self.random, sizes.items());
                let supply = if percent(&mut self.random, 1) { self.remote() } else { self.warehouse };
                Line { item, supply, quantity: self.random.between(1, 10) as i64 }
            })
            .collect();
        if percent(&mut self.random, 1)
            && let Some(last) = lines.last_mut()
        {
            last.item = 0;
        }
        NewOrder { warehouse: self.warehouse, district, customer, lines }
    }

    fn payment(&mut self) -> Payment {
        let district = self.any_district();
        let (customer_warehouse, customer_district) = match percent(&mut self.random, 85) {
            true => (self.warehouse, district),
            false => (self.remote(), self.any_district()),
        };
        let customer = self.sought();
        let amount = self.random.between(100, 500_000) as i64;
        Payment {
            warehouse: self.warehouse,
            district,
            customer_warehouse,
            customer_district,
            customer,
            amount,
        }
    }
}

/// The customer that is meant by a last name, of all that have it, ordered by first name: that in the middle, rounded up.
pub fn median<T>(of_name: Vec<T>) -> Option<T> {
    let place = of_name.len().checked_sub(1)? / 2;
    of_name.into_iter().nth(place)
}

/// What a payment puts before the data of a customer with bad credit, who keeps the first 500 characters.
pub fn noted(payment: &Payment, customer: u64, data: &str) -> String {
    let Payment { warehouse, district, customer_warehouse, customer_district, amount, .. } = payment;
    let mut noted = format!(
        "{customer} {customer_district} {customer_warehouse} {district} {warehouse} {}.{:02} {data}",
        amount / 100,
        amount % 100
    );
    noted.truncate(noted.char_indices().nth(500).map_or(noted.len(), |(end, _)| end));
    noted
}

/// What of a stock is left when so many are taken: it is filled up by 91 where less than 10 would be left (clause 2.4.2.2).
pub fn left(stock: i64, taken: i64) -> i64 {
    if stock >= taken + 10 { stock - taken } else { stock - taken + 91 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(warehouses: u64) -> Terminal {
        let mut random = Random::new(5);
        let constants = Constants::of_load(&mut random);
        Terminal::new(1, Sizes { warehouses, scale: 1 }, constants, random)
    }

    #[test]
    fn the_mix_and_what_is_entered_are_as_specified() {
        let mut terminal = terminal(4);
        let drawn: Vec<Transaction> = (0..100_000).map(|_| terminal.next()).collect();
        let share = |kind| drawn.iter().filter(|drawn| drawn.kind() == kind).count() as f64 / 1000.0;
        for kind in Kind::ALL {
            let expected = kind.share() as f64;
            assert!((expected - 0.6..expected + 0.6).contains(&share(kind)), "{kind} {}", share(kind));
        }
        let orders = drawn.iter().filter_map(|drawn| match drawn {
            Transaction::NewOrder(order) => Some(order),
            _ => None,
        });
        let orders: Vec<&NewOrder> = orders.collect();
        let lines: Vec<&Line> = orders.iter().flat_map(|order| &order.lines).collect();
        let of_orders = |count: usize| count as f64 / orders.len() as f64;
        assert!((9.9..10.1).contains(&of_orders(lines.len())));
        let unused = orders.iter().filter(|order| order.lines.iter().any(|line| line.item == 0)).count();
        assert!((0.008..0.012).contains(&of_orders(unused)), "{unused}");
        let remote = lines.iter().filter(|line| line.supply != 2).count() as f64 / lines.len() as f64;
        assert!((0.009..0.011).contains(&remote), "{remote}");
        assert!(lines.iter().all(|line| (1..=4).contains(&line.supply) && line.item <= 100_000));
        let payments = drawn.iter().filter_map(|drawn| match drawn {
            Transaction::Payment(payment) => Some(payment),
            _ => None,
        });
        let payments: Vec<&Payment> = payments.collect();
        let of_payments = |count: usize| count as f64 / payments.len() as f64;
        let remote =
            payments.iter().filter(|payment| payment.customer_warehouse != payment.warehouse).count();
        assert!((0.145..0.155).contains(&of_payments(remote)), "{remote}");
        let named = payments.iter().filter(|payment| matches!(payment.customer, Sought::LastName(_))).count();
        assert!((0.59..0.61).contains(&of_payments(named)), "{named}");
    }

    #[test]
    fn a_single_warehouse_has_no_other() {
        let mut terminal = terminal(1);
        assert!((0..100).all(|_| terminal.remote() == 1));
    }

    #[test]
    fn the_customer_in_the_middle_is_meant() {
        assert_eq!([1, 2, 3, 4, 5].map(|count| median((1..=count).collect())), [1, 1, 2, 2, 3].map(Some));
        assert_eq!(median(Vec::<u64>::new()), None);
    }

    #[test]
    fn stock_is_filled_up() {
        assert_eq!([left(20, 10), left(19, 10), left(10, 10)], [10, 100, 91]);
    }

    #[test]
    fn what_is_noted_has_500_characters_at_most() {
        let (customer_warehouse, customer_district, customer) = (2, 3, Sought::Id(4));
        let payment = Payment {
            warehouse: 1,
            district: 5,
            customer_warehouse,
            customer_district,
            customer,
            amount: 1205,
        };
        assert_eq!(noted(&payment, 4, "before"), "4 3 2 5 1 12.05 before");
        assert_eq!(noted(&payment, 4, &"x".repeat(500)).len(), 500);
    }
}
