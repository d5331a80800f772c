//! The five transactions in SQL. What is read and written is clause 2.4.2 to 2.8.2's; rows are locked in an order that all
//! transactions keep, so that they wait for each other and seldom in a circle: customers, districts, warehouses, stock by key.

use std::collections::BTreeMap;

use mysql_async::Value as Sql;

use super::{
    sql::{SqlSession, date_time, failed, money, number, text},
    transactions::{
        Delivery, Done, Fault, LINES_MAX, NewOrder, ORDERS_LOOKED_AT, OrderStatus, Payment, Sought,
        StockLevel, left, median, noted,
    },
};
use crate::dbt2::{history, now_micros, schema::DISTRICTS};

const CUSTOMERS_BY_NAME: &str =
    "SELECT c_id FROM customer WHERE c_w_id = ? AND c_d_id = ? AND c_last = ? ORDER BY c_first";

/// So many placeholders.
fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Ids for an IN list of a fixed length, so that one prepared statement does for all orders.
fn padded(ids: impl Iterator<Item = u64>) -> Vec<Sql> {
    let mut ids: Vec<Sql> = ids.map(Sql::from).collect();
    if let Some(last) = ids.last().cloned() {
        ids.resize(LINES_MAX, last);
    }
    ids
}

/// What is known of a stock in the course of an order.
struct Stock {
    quantity: i64,
    taken: i64,
    lines: i64,
    dist: String,
}

impl SqlSession {
    async fn customer(&mut self, warehouse: u64, district: u64, sought: &Sought) -> Result<u64, Fault> {
        let name = match sought {
            Sought::Id(id) => return Ok(*id),
            Sought::LastName(name) => name,
        };
        let rows = self.rows(CUSTOMERS_BY_NAME, (warehouse, district, name)).await?;
        let missing = || failed(format!("no customer of district {warehouse}, {district} is called {name}"));
        Ok(number(&median(rows).ok_or_else(missing)?, 0)? as u64)
    }

    pub(super) async fn new_order(&mut self, order: &NewOrder) -> Result<Done, Fault> {
        let NewOrder { warehouse, district, customer, .. } = *order;
        self.run_text("START TRANSACTION").await?;
        self.one("SELECT w_tax FROM warehouse WHERE w_id = ?", (warehouse,)).await?;
        let query =
            "SELECT c_discount, c_last, c_credit FROM customer WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
        self.one(query, (warehouse, district, customer)).await?;
        let query = "SELECT d_next_o_id, d_tax FROM district WHERE d_w_id = ? AND d_id = ? FOR UPDATE";
        let id = number(&self.one(query, (warehouse, district)).await?, 0)?;
        let change = "UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = ? AND d_id = ?";
        self.change(change, (warehouse, district)).await?;
        let change = "INSERT INTO orders (o_w_id, o_d_id, o_id, o_c_id, o_entry_d, o_carrier_id, o_ol_cnt, o_all_local) \
                      VALUES (?, ?, ?, ?, ?, NULL, ?, ?)";
        let entered = date_time(now_micros());
        let (lines, all_local) = (order.lines.len(), order.all_local());
        self.change(change, (warehouse, district, id, customer, entered, lines, all_local)).await?;
        let change = "INSERT INTO new_order (no_w_id, no_d_id, no_o_id) VALUES (?, ?, ?)";
        self.change(change, (warehouse, district, id)).await?;
        let query = format!(
            "SELECT i_id, i_price, i_name, i_data FROM item WHERE i_id IN ({})",
            placeholders(LINES_MAX)
        );
        let items = self.rows(&query, padded(order.lines.iter().map(|line| line.item))).await?;
        let prices = items.iter().map(|row| Ok((number(row, 0)? as u64, number(row, 1)?)));
        let prices: BTreeMap<u64, i64> = prices.collect::<Result<_, Fault>>()?;
        let mut stocks = self.stocks(order, &prices).await?;
        let mut values: Vec<Sql> = Vec::new();
        // A line of an unused item does nothing; all others do before it is found out, as the specification wants it.
        let known = order.lines.iter().filter_map(|line| Some((line, *prices.get(&line.item)?)));
        for (place, (line, price)) in known.enumerate() {
            let stock = stocks.get_mut(&(line.supply, line.item));
            let stock = stock.ok_or_else(|| failed("an item has no stock"))?;
            stock.quantity = left(stock.quantity, line.quantity);
            stock.taken += line.quantity;
            stock.lines += 1;
            values.extend([warehouse, district].map(Sql::from));
            values.extend([id.into(), (place as u64 + 1).into(), line.item.into(), line.supply.into()]);
            values.extend([
                line.quantity.into(),
                money(line.quantity * price).into(),
                stock.dist.as_str().into(),
            ]);
        }
        for (&(supply, item), stock) in &stocks {
            let remote = if supply == warehouse { 0 } else { stock.lines };
            let change = "UPDATE stock SET s_quantity = ?, s_ytd = s_ytd + ?, s_order_cnt = s_order_cnt + ?, \
                          s_remote_cnt = s_remote_cnt + ? WHERE s_w_id = ? AND s_i_id = ?";
            self.change(change, (stock.quantity, stock.taken, stock.lines, remote, supply, item)).await?;
        }
        let rows = values.len() / 9;
        if rows > 0 {
            let row = format!("({})", "?, ".repeat(6) + "NULL, ?, ?, ?");
            let change = format!(
                "INSERT INTO order_line (ol_w_id, ol_d_id, ol_o_id, ol_number, ol_i_id, ol_supply_w_id, ol_delivery_d, \
                 ol_quantity, ol_amount, ol_dist_info) VALUES {}",
                vec![row; rows].join(", ")
            );
            self.change(&change, values).await?;
        }
        if rows < order.lines.len() {
            self.run_text("ROLLBACK").await?;
            return Ok(Done::RolledBack);
        }
        self.commit().await?;
        Ok(Done::Committed)
    }

    /// The stock of an order's items, locked.
    async fn stocks(
        &mut self,
        order: &NewOrder,
        prices: &BTreeMap<u64, i64>,
    ) -> Result<BTreeMap<(u64, u64), Stock>, Fault> {
        let mut wanted: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for line in order.lines.iter().filter(|line| prices.contains_key(&line.item)) {
            wanted.entry(line.supply).or_default().push(line.item);
        }
        let mut stocks = BTreeMap::new();
        for (supply, items) in wanted {
            let query = format!(
                "SELECT s_i_id, s_quantity, s_dist_{:02}, s_data FROM stock WHERE s_w_id = ? AND s_i_id IN ({}) FOR UPDATE",
                order.district,
                placeholders(LINES_MAX)
            );
            let mut values = padded(items.into_iter());
            values.insert(0, supply.into());
            for row in self.rows(&query, values).await? {
                let stock = Stock { quantity: number(&row, 1)?, taken: 0, lines: 0, dist: text(&row, 2)? };
                stocks.insert((supply, number(&row, 0)? as u64), stock);
            }
        }
        Ok(stocks)
    }

    pub(super) async fn payment(&mut self, payment: &Payment) -> Result<Done, Fault> {
        let Payment { warehouse, district, customer_warehouse, customer_district, amount, .. } = *payment;
        self.run_text("START TRANSACTION").await?;
        let query =
            "SELECT w_name, w_street_1, w_street_2, w_city, w_state, w_zip FROM warehouse WHERE w_id = ?";
        let of_warehouse = self.one(query, (warehouse,)).await?;
        let query = "SELECT d_name, d_street_1, d_street_2, d_city, d_state, d_zip FROM district WHERE d_w_id = ? AND d_id = ?";
        let of_district = self.one(query, (warehouse, district)).await?;
        let id = self.customer(customer_warehouse, customer_district, &payment.customer).await?;
        let query = "SELECT c_credit, c_first, c_middle, c_last, c_street_1, c_street_2, c_city, c_state, c_zip, c_phone, \
                     c_since, c_credit_lim, c_discount, c_balance, c_data FROM customer \
                     WHERE c_w_id = ? AND c_d_id = ? AND c_id = ? FOR UPDATE";
        let of_customer = self.one(query, (customer_warehouse, customer_district, id)).await?;
        let paid = money(amount);
        let key = (customer_warehouse, customer_district, id);
        if text(&of_customer, 0)? == "BC" {
            let data = noted(payment, id, &text(&of_customer, 14)?);
            let change = "UPDATE customer SET c_balance = c_balance - CAST(? AS DECIMAL(12, 2)), c_ytd_payment = c_ytd_payment + \
                          CAST(? AS DECIMAL(12, 2)), c_payment_cnt = c_payment_cnt + 1, c_data = ? \
                          WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
            self.change(change, (&paid, &paid, data, key.0, key.1, key.2)).await?;
        } else {
            let change = "UPDATE customer SET c_balance = c_balance - CAST(? AS DECIMAL(12, 2)), c_ytd_payment = c_ytd_payment + \
                          CAST(? AS DECIMAL(12, 2)), c_payment_cnt = c_payment_cnt + 1 \
                          WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
            self.change(change, (&paid, &paid, key.0, key.1, key.2)).await?;
        }
        let change = "INSERT INTO history (h_w_id, h_id, h_d_id, h_c_w_id, h_c_d_id, h_c_id, h_date, h_amount, h_data) \
                      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let (number, now) = (history::number(), date_time(now_micros()));
        let data = history::data(&text(&of_warehouse, 0)?, &text(&of_district, 0)?);
        self.change(change, (warehouse, number, district, key.0, key.1, key.2, now, &paid, data)).await?;
        // Last what most others want to change, too.
        let change =
            "UPDATE district SET d_ytd = d_ytd + CAST(? AS DECIMAL(12, 2)) WHERE d_w_id = ? AND d_id = ?";
        self.change(change, (&paid, warehouse, district)).await?;
        let change = "UPDATE warehouse SET w_ytd = w_ytd + CAST(? AS DECIMAL(12, 2)) WHERE w_id = ?";
        self.change(change, (&paid, warehouse)).await?;
        self.commit().await?;
        Ok(Done::Committed)
    }

    /// Reads what is committed, of which each row once: a transaction around it would promise no more.
    pub(super) async fn order_status(&mut self, status: &OrderStatus) -> Result<Done, Fault> {
        let OrderStatus { warehouse, district, .. } = *status;
        let customer = self.customer(warehouse, district, &status.customer).await?;
        let query = "SELECT c_balance, c_first, c_middle, c_last FROM customer WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
        self.one(query, (warehouse, district, customer)).await?;
        let query = "SELECT o_id, o_entry_d, o_carrier_id FROM orders WHERE o_w_id = ? AND o_d_id = ? AND o_c_id = ? \
                     ORDER BY o_id DESC LIMIT 1";
        let order = number(&self.one(query, (warehouse, district, customer)).await?, 0)?;
        let query = "SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d FROM order_line \
                     WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";
        match self.rows(query, (warehouse, district, order)).await?.is_empty() {
            true => Err(failed(format!("order {warehouse}, {district}, {order} has no lines"))),
            false => Ok(Done::Committed),
        }
    }

    pub(super) async fn delivery(&mut self, delivery: &Delivery) -> Result<Done, Fault> {
        let Delivery { warehouse, carrier } = *delivery;
        let now = date_time(now_micros());
        self.run_text("START TRANSACTION").await?;
        for district in 1..=DISTRICTS {
            let Some(order) = self.oldest_new_order(warehouse, district).await? else { continue };
            let key = (warehouse, district, order);
            let query = "SELECT o_c_id FROM orders WHERE o_w_id = ? AND o_d_id = ? AND o_id = ?";
            let customer = number(&self.one(query, key).await?, 0)?;
            let change = "UPDATE orders SET o_carrier_id = ? WHERE o_w_id = ? AND o_d_id = ? AND o_id = ?";
            self.change(change, (carrier, warehouse, district, order)).await?;
            let query = "SELECT ol_amount FROM order_line WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";
            let lines = self.rows(query, key).await?;
            let sum: i64 = lines.iter().map(|row| number(row, 0)).sum::<Result<_, Fault>>()?;
            let change =
                "UPDATE order_line SET ol_delivery_d = ? WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id = ?";
            self.change(change, (&now, warehouse, district, order)).await?;
            let change = "UPDATE customer SET c_balance = c_balance + CAST(? AS DECIMAL(12, 2)), c_delivery_cnt = c_delivery_cnt + 1 \
                          WHERE c_w_id = ? AND c_d_id = ? AND c_id = ?";
            self.change(change, (money(sum), warehouse, district, customer)).await?;
        }
        self.commit().await?;
        Ok(Done::Committed)
    }

    /// Takes the oldest order that waits in a district: whose delete finds it has it for sure, whatever others do.
    async fn oldest_new_order(&mut self, warehouse: u64, district: u64) -> Result<Option<i64>, Fault> {
        loop {
            let query =
                "SELECT no_o_id FROM new_order WHERE no_w_id = ? AND no_d_id = ? ORDER BY no_o_id LIMIT 1";
            let Some(row) = self.first(query, (warehouse, district)).await? else { return Ok(None) };
            let order = number(&row, 0)?;
            let change = "DELETE FROM new_order WHERE no_w_id = ? AND no_d_id = ? AND no_o_id = ?";
            if self.change(change, (warehouse, district, order)).await? > 0 {
                return Ok(Some(order));
            }
        }
    }

    /// As Order-Status.
    pub(super) async fn stock_level(&mut self, level: &StockLevel) -> Result<Done, Fault> {
        let StockLevel { warehouse, district, threshold } = *level;
        let query = "SELECT d_next_o_id FROM district WHERE d_w_id = ? AND d_id = ?";
        let next = number(&self.one(query, (warehouse, district)).await?, 0)?;
        let query = "SELECT COUNT(DISTINCT s_i_id) FROM order_line JOIN stock ON s_w_id = ol_w_id AND s_i_id = ol_i_id \
                     WHERE ol_w_id = ? AND ol_d_id = ? AND ol_o_id >= ? AND ol_o_id < ? AND s_quantity < ?";
        let from = next - ORDERS_LOOKED_AT as i64;
        self.one(query, (warehouse, district, from, next, threshold)).await?;
        Ok(Done::Committed)
    }
}
