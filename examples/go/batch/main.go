// Batch reads many rows by key: each on its own, all in one call. What fails for a moment is asked for again, the rest is not.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"twofold/bank"
	pb "twofold/v1"
)

const (
	table     = "example_batch"
	batchSize = 64
)

// readAll returns the balance of each account that there is.
func readAll(ctx context.Context, api pb.TwofoldClient, left []int64) (map[int64]int64, error) {
	found := make(map[int64]int64)
	for attempts := 0; len(left) > 0; {
		size := batchSize
		if len(left) < size {
			size = len(left)
		}
		var batch []int64
		batch, left = left[:size], left[size:]
		request := &pb.ExecuteRequest{Mode: pb.Mode_INDEPENDENT}
		for _, id := range batch {
			request.Operations = append(request.Operations, bank.Read(table, id, pb.Lock_LOCK_NONE))
		}
		response, err := bank.Execute(ctx, api, request)
		if err != nil {
			return nil, err
		}
		for place, result := range response.GetResults() {
			if failure := result.GetError(); failure != nil {
				attempts++
				if !failure.GetTemporary() || attempts > bank.Attempts {
					return nil, errors.New(failure.GetMessage())
				}
				time.Sleep(time.Duration(failure.GetRetryDelayMs()) * time.Millisecond)
				left = append(left, batch[place])
			} else if result.GetExisted() {
				found[batch[place]] = bank.Balance(result)
			}
		}
	}
	return found, nil
}

func run(ctx context.Context) error {
	api, err := bank.Connect()
	if err != nil {
		return err
	}
	if err := bank.OpenAccounts(ctx, api, table); err != nil {
		return err
	}
	var asked []int64
	for id := int64(0); id < 2*bank.Accounts; id++ {
		asked = append(asked, id)
	}
	found, err := readAll(ctx, api, asked)
	if err != nil {
		return err
	}
	sum := int64(0)
	for _, balance := range found {
		sum += balance
	}
	fmt.Printf("%d keys asked for: %d rows, %d in all\n", len(asked), len(found), sum)
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
