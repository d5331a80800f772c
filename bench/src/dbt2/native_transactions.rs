//! The five transactions through the native client: what can be asked at once is one statement. The first operation of each is
//! about its own warehouse, so the worker that has the warehouse's rows coordinates it, and for the most part is alone with it.
//! Customers by name, last orders, oldest new orders and orders' lines are found by the tables' ordered indexes.

use std::collections::{BTreeMap, BTreeSet};

use twofold_client::{Error, ErrorCode, Lock, Operation, Outcome, Value};

use super::{
    history,
    native::{NativeSession, number, text, together, wrong},
    now_micros,
    schema::DISTRICTS,
    transactions::{
        Delivery, Done, NewOrder, ORDERS_LOOKED_AT, OrderStatus, Payment, Sought, StockLevel, left, median,
        noted,
    },
};

/// The next outcome, of which there is one for each operation.
fn next(outcomes: &mut impl Iterator<Item = Outcome>) -> Result<Outcome, Error> {
    outcomes.next().ok_or_else(|| wrong("an answer has no result"))
}

/// The time of seconds, as SQL keeps it.
fn now() -> Value {
    Value::Int(now_micros() / 1_000_000 * 1_000_000)
}

impl NativeSession {
    async fn customer(&self, warehouse: u64, district: u64, sought: &Sought) -> Result<u64, Error> {
        let name = match sought {
            Sought::Id(id) => return Ok(*id),
            Sought::LastName(name) => name,
        };
        let equal: [Value; 3] = [warehouse.into(), district.into(), name.clone().into()];
        let scan =
            self.cluster.scan(&self.tables.customer).columns(["c_id"]).by_index("customer_by_name", equal);
        let (mut rows, mut ids) = (scan.rows()?, Vec::new());
        while let Some(row) = rows.next().await? {
            ids.push(number(Some(&row), "c_id")? as u64);
        }
        let missing = || wrong(format!("no customer of district {warehouse}, {district} is called {name}"));
        median(ids).ok_or_else(missing)
    }

    pub(super) async fn new_order(&mut self, order: &NewOrder) -> Result<Done, Error> {
        let NewOrder { warehouse, district, customer, .. } = *order;
        let tables = self.tables.clone();
        let dist = format!("s_dist_{district:02}");
        let stocks: BTreeSet<(u64, u64)> = order.lines.iter().map(|line| (line.supply, line.item)).collect();
        let items: BTreeSet<u64> = order.lines.iter().map(|line| line.item).collect();
        let mut operations = vec![
            tables.warehouse.read([warehouse]).columns(["w_tax"]),
            tables
                .district
                .update([warehouse, district])
                .add("d_next_o_id", 1)
                .returning_old(["d_next_o_id", "d_tax"]),
            tables.customer.read([warehouse, district, customer]).columns([
                "c_discount",
                "c_last",
                "c_credit",
            ]),
        ];
        operations.extend(stocks.iter().map(|&(supply, item)| {
            let columns = ["s_quantity", dist.as_str(), "s_data"];
            tables.stock.read([supply, item]).columns(columns).lock(Lock::Exclusive)
        }));
        let mut open = self.begin();
        // Nothing changes an item, so it needs not be read in the transaction.
        let item_reads =
            items.iter().map(|&item| tables.item.read([item]).columns(["i_price", "i_name", "i_data"]));
        let (outcomes, item_outcomes) = tokio::join!(open.batch(operations), self.cluster.batch(item_reads));
        let mut outcomes = outcomes?.into_iter().skip(1);
        let id = number(next(&mut outcomes)?.old_row.as_ref(), "d_next_o_id")?;
        next(&mut outcomes)?;
        let mut prices = BTreeMap::new();
        for (&item, outcome) in items.iter().zip(item_outcomes?) {
            if let Some(row) = outcome?.row {
                prices.insert(item, number(Some(&row), "i_price")?);
            }
        }
        let mut stock: BTreeMap<(u64, u64), Stock> = BTreeMap::new();
        for (&key, outcome) in stocks.iter().zip(outcomes) {
            if let Some(row) = outcome.row {
                let (quantity, dist) = (number(Some(&row), "s_quantity")?, text(Some(&row), &dist)?);
                stock.insert(key, Stock { quantity, taken: 0, lines: 0, dist });
            }
        }
        let key: [(&str, Value); 3] =
            [("o_w_id", warehouse.into()), ("o_d_id", district.into()), ("o_id", id.into())];
        let rest: [(&str, Value); 5] = [
            ("o_c_id", customer.into()),
            ("o_entry_d", now()),
            ("o_carrier_id", Value::Null),
            ("o_ol_cnt", (order.lines.len() as u64).into()),
            ("o_all_local", u64::from(order.all_local()).into()),
        ];
        let mut writes = vec![
            tables.orders.insert(key.into_iter().chain(rest)),
            tables.new_order.insert([
                ("no_w_id", warehouse.into()),
                ("no_d_id", district.into()),
                ("no_o_id", id.into()),
            ]),
        ];
        let known = order.lines.iter().filter_map(|line| Some((line, *prices.get(&line.item)?)));
        let mut lines = 0;
        for (line, price) in known {
            let stock =
                stock.get_mut(&(line.supply, line.item)).ok_or_else(|| wrong("an item has no stock"))?;
            stock.quantity = left(stock.quantity, line.quantity);
            stock.taken += line.quantity;
            stock.lines += 1;
            lines += 1;
            writes.push(tables.order_line.insert([
                ("ol_w_id", warehouse.into()),
                ("ol_d_id", district.into()),
                ("ol_o_id", id.into()),
                ("ol_number", lines.into()),
                ("ol_i_id", line.item.into()),
                ("ol_supply_w_id", line.supply.into()),
                ("ol_delivery_d", Value::Null),
                ("ol_quantity", line.quantity.into()),
                ("ol_amount", (line.quantity * price).into()),
                ("ol_dist_info", stock.dist.as_str().into()),
            ]));
        }
        writes.extend(stock.iter().filter(|(_, stock)| stock.lines > 0).map(|(&(supply, item), stock)| {
            let remote = if supply == warehouse { 0 } else { stock.lines };
            let update = tables.stock.update([supply, item]).set("s_quantity", stock.quantity);
            let update = update.add("s_ytd", stock.taken).add("s_order_cnt", stock.lines);
            if remote > 0 { update.add("s_remote_cnt", remote) } else { update }
        }));
        if (lines as usize) < order.lines.len() {
            // All that the valid lines do is done before the unused item is found out, as the specification wants it.
            open.batch(writes).await?;
            open.rollback().await?;
            return Ok(Done::RolledBack);
        }
        open.commit_with(writes).await?;
        Ok(Done::Committed)
    }

    pub(super) async fn payment(&mut self, payment: &Payment) -> Result<Done, Error> {
        let Payment { warehouse, district, customer_warehouse, customer_district, amount, .. } = *payment;
        let tables = self.tables.clone();
        let id = self.customer(customer_warehouse, customer_district, &payment.customer).await?;
        let key = [customer_warehouse, customer_district, id];
        let mut open = self.begin();
        let address = |of: &str| {
            ["name", "street_1", "street_2", "city", "state", "zip"].map(|column| format!("{of}_{column}"))
        };
        let (of_warehouse, of_district) = (address("w"), address("d"));
        let reads = [
            tables.warehouse.read([warehouse]).columns(of_warehouse.iter().map(String::as_str)),
            tables.district.read([warehouse, district]).columns(of_district.iter().map(String::as_str)),
            tables.customer.read(key).lock(Lock::Exclusive),
        ];
        let mut outcomes = open.batch(reads).await?.into_iter();
        let warehouse_name = text(next(&mut outcomes)?.row.as_ref(), "w_name")?;
        let district_name = text(next(&mut outcomes)?.row.as_ref(), "d_name")?;
        let customer = next(&mut outcomes)?.row;
        let mut paid = tables.customer.update(key).add("c_balance", -amount).add("c_ytd_payment", amount);
        paid = paid.add("c_payment_cnt", 1);
        if text(customer.as_ref(), "c_credit")? == "BC" {
            let data = noted(payment, id, &text(customer.as_ref(), "c_data")?);
            paid = paid.set("c_data", data.as_str());
        }
        let data = history::data(&warehouse_name, &district_name);
        let writes = [
            paid,
            tables.history.insert([
                ("h_w_id", warehouse.into()),
                ("h_id", history::number().into()),
                ("h_d_id", district.into()),
                ("h_c_w_id", customer_warehouse.into()),
                ("h_c_d_id", customer_district.into()),
                ("h_c_id", id.into()),
                ("h_date", now()),
                ("h_amount", amount.into()),
                ("h_data", data.as_str().into()),
            ]),
            tables.district.update([warehouse, district]).add("d_ytd", amount),
            tables.warehouse.update([warehouse]).add("w_ytd", amount),
        ];
        open.commit_with(writes).await?;
        Ok(Done::Committed)
    }

    pub(super) async fn order_status(&mut self, status: &OrderStatus) -> Result<Done, Error> {
        let OrderStatus { warehouse, district, .. } = *status;
        let tables = self.tables.clone();
        let customer = self.customer(warehouse, district, &status.customer).await?;
        let columns = ["c_balance", "c_first", "c_middle", "c_last"];
        let read = self.cluster.run(tables.customer.read([warehouse, district, customer]).columns(columns));
        let newest =
            self.cluster.scan(&tables.orders).by_index("orders_by_customer", [warehouse, district, customer]);
        let columns = ["o_id", "o_entry_d", "o_carrier_id", "o_ol_cnt"];
        let mut newest = newest.columns(columns).descending().limit(1).rows()?;
        let (read, newest) = tokio::join!(read, newest.next());
        number(read?.row.as_ref(), "c_balance")?;
        let newest = newest?;
        let (order, lines) = (number(newest.as_ref(), "o_id")?, number(newest.as_ref(), "o_ol_cnt")?);
        let columns = ["ol_i_id", "ol_supply_w_id", "ol_quantity", "ol_amount", "ol_delivery_d"];
        let line =
            |line| tables.order_line.read([warehouse as i64, district as i64, order, line]).columns(columns);
        for outcome in self.cluster.batch((1..=lines).map(line)).await? {
            number(outcome?.row.as_ref(), "ol_amount")?;
        }
        Ok(Done::Committed)
    }

    pub(super) async fn delivery(&mut self, delivery: &Delivery) -> Result<Done, Error> {
        let Delivery { warehouse, carrier } = *delivery;
        let tables = self.tables.clone();
        let oldest = |district: u64| {
            let scan = self.cluster.scan(&tables.new_order).by_index("PRIMARY", [warehouse, district]);
            let rows = scan.columns(["no_o_id"]).limit(1).rows();
            async move {
                match rows?.next().await? {
                    Some(row) => Ok(Some((district, number(Some(&row), "no_o_id")? as u64))),
                    None => Ok(None),
                }
            }
        };
        let oldest = together((1..=DISTRICTS).map(oldest).collect()).await?;
        let orders: Vec<[u64; 3]> =
            oldest.into_iter().flatten().map(|(district, id)| [warehouse, district, id]).collect();
        let mut open = self.begin();
        let taken: Vec<Operation> = orders.iter().map(|&key| tables.new_order.delete(key)).collect();
        let delivered = orders.iter().map(|&key| {
            tables.orders.update(key).set("o_carrier_id", carrier).returning_old(["o_c_id", "o_ol_cnt"])
        });
        let statement = open.batch(taken.into_iter().chain(delivered)).await;
        let outcomes = statement.map_err(|error| match error.code() {
            // Another one delivers it.
            ErrorCode::NoSuchRow => {
                twofold_proto::error::Error::new(ErrorCode::Deadlock, "the oldest new order is gone").into()
            }
            _ => error,
        })?;
        let mut lines = Vec::new();
        let mut customers = Vec::new();
        for (key, outcome) in orders.iter().zip(&outcomes[orders.len()..]) {
            let count = number(outcome.old_row.as_ref(), "o_ol_cnt")? as u64;
            customers.push((key, number(outcome.old_row.as_ref(), "o_c_id")? as u64, count as usize));
            lines.extend((1..=count).map(|line| {
                let update =
                    tables.order_line.update([key[0], key[1], key[2], line]).set("ol_delivery_d", now());
                update.returning_old(["ol_amount"])
            }));
        }
        let mut amounts = open.batch(lines).await?.into_iter();
        let mut paid = Vec::new();
        for (key, customer, count) in customers {
            let mut sum = 0;
            for _ in 0..count {
                sum += number(next(&mut amounts)?.old_row.as_ref(), "ol_amount")?;
            }
            let update = tables.customer.update([key[0], key[1], customer]);
            paid.push(update.add("c_balance", sum).add("c_delivery_cnt", 1));
        }
        open.commit_with(paid).await?;
        Ok(Done::Committed)
    }

    pub(super) async fn stock_level(&mut self, level: &StockLevel) -> Result<Done, Error> {
        let StockLevel { warehouse, district, threshold } = *level;
        let tables = self.tables.clone();
        let read = self.cluster.run(tables.district.read([warehouse, district]).columns(["d_next_o_id"]));
        let next = number(read.await?.row.as_ref(), "d_next_o_id")?;
        let lines = self.cluster.scan(&tables.order_line).by_index("PRIMARY", [warehouse, district]);
        let mut lines =
            lines.from(next - ORDERS_LOOKED_AT as i64).before(next).columns(["ol_i_id"]).rows()?;
        let mut items = BTreeSet::new();
        while let Some(row) = lines.next().await? {
            items.insert(number(Some(&row), "ol_i_id")? as u64);
        }
        let stock =
            items.into_iter().map(|item| tables.stock.read([warehouse, item]).columns(["s_quantity"]));
        let mut low = 0;
        for outcome in self.cluster.batch(stock).await? {
            low += u64::from(number(outcome?.row.as_ref(), "s_quantity")? < threshold);
        }
        // It is the answer, for which nobody has a screen here.
        std::hint::black_box(low);
        Ok(Done::Committed)
    }
}

/// What is known of a stock in the course of an order.
struct Stock {
    quantity: i64,
    taken: i64,
    lines: i64,
    dist: String,
}
