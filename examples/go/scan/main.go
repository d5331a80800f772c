// Scan reads all rows for which a condition holds, as a stream: the server sends no faster than they are read.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"twofold/bank"
	pb "twofold/v1"
)

const table = "example_scan"

func scan(ctx context.Context, api pb.TwofoldClient) (map[int64]int64, error) {
	request := &pb.ScanRequest{
		Table:   table,
		Columns: &pb.Columns{Names: []string{"id", "balance"}},
		Filter:  []*pb.Condition{bank.BalanceFrom(bank.OpeningBalance + 50)},
	}
	stream, err := api.Scan(ctx, request)
	if err != nil {
		return nil, err
	}
	rows := make(map[int64]int64)
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		for _, row := range response.GetRows() {
			rows[row.GetValues()[0].GetIntValue()] = row.GetValues()[1].GetIntValue()
		}
	}
}

func run(ctx context.Context) error {
	api, err := bank.Connect()
	if err != nil {
		return err
	}
	if err := bank.OpenAccounts(ctx, api, table); err != nil {
		return err
	}
	additions := &pb.ExecuteRequest{}
	for id := int64(0); id < bank.Accounts; id++ {
		additions.Operations = append(additions.Operations, bank.Add(table, id, id))
	}
	if _, err := bank.Execute(ctx, api, additions); err != nil {
		return err
	}
	var rows map[int64]int64
	// All of them anew if the scan is cut short.
	if err := bank.Retrying(ctx, func(ctx context.Context) (err error) {
		rows, err = scan(ctx, api)
		return err
	}); err != nil {
		return err
	}
	sum := int64(0)
	for _, balance := range rows {
		sum += balance
	}
	fmt.Printf("%d accounts are rich: %d in all\n", len(rows), sum)
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
