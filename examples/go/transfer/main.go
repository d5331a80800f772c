// Transfer moves money between accounts, in one call each: both rows are changed or none, and no balance becomes negative.
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"twofold/bank"
	pb "twofold/v1"
)

const (
	table      = "example_transfer"
	transfers  = 200
	sideBySide = 8
)

// transfer moves the amount; it returns whether the source had it.
func transfer(ctx context.Context, api pb.TwofoldClient, source, target, amount int64) (bool, error) {
	request := &pb.ExecuteRequest{Operations: []*pb.Operation{
		bank.Add(table, source, -amount, bank.BalanceFrom(amount)),
		bank.Add(table, target, amount),
	}}
	for {
		var trailer metadata.MD
		err := bank.Retrying(ctx, func(ctx context.Context) error {
			_, err := api.Execute(ctx, request, grpc.Trailer(&trailer))
			return err
		})
		if err == nil || status.Code(err) == codes.FailedPrecondition {
			return err == nil, nil
		}
		token := trailer.Get("twofold-token-bin")
		if len(token) == 0 {
			return false, err
		}
		// The answer was lost, not the outcome.
		var outcome *pb.TransactionStatusResponse
		question := &pb.TransactionStatusRequest{Token: []byte(token[0])}
		if err := bank.Retrying(ctx, func(ctx context.Context) (err error) {
			outcome, err = api.TransactionStatus(ctx, question)
			return err
		}); err != nil {
			return false, err
		}
		switch outcome.GetState() {
		case pb.State_COMMITTED:
			return true, nil
		case pb.State_ABORTED:
		default:
			return false, err
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
	numbers := make(chan int)
	failures := make(chan error, sideBySide)
	var mutex sync.Mutex
	var tellers sync.WaitGroup
	done := 0
	for teller := 0; teller < sideBySide; teller++ {
		tellers.Add(1)
		go func() {
			defer tellers.Done()
			for range numbers {
				source := rand.Int63n(bank.Accounts)
				target := (source + 1 + rand.Int63n(bank.Accounts-1)) % bank.Accounts
				moved, err := transfer(ctx, api, source, target, 1+rand.Int63n(2*bank.OpeningBalance))
				if err != nil {
					failures <- err
					break
				}
				if moved {
					mutex.Lock()
					done++
					mutex.Unlock()
				}
			}
			// The others' work is taken on, so that nobody waits for this one.
			for range numbers {
			}
		}()
	}
	for number := 0; number < transfers; number++ {
		numbers <- number
	}
	close(numbers)
	tellers.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	var reads []*pb.Operation
	for id := int64(0); id < bank.Accounts; id++ {
		reads = append(reads, bank.Read(table, id, pb.Lock_LOCK_NONE))
	}
	response, err := bank.Execute(ctx, api, &pb.ExecuteRequest{Operations: reads})
	if err != nil {
		return err
	}
	sum := int64(0)
	for id, result := range response.GetResults() {
		balance := bank.Balance(result)
		if balance < 0 {
			return fmt.Errorf("account %d has %d", id, balance)
		}
		sum += balance
	}
	if done == 0 || done == transfers {
		return fmt.Errorf("%d of %d transfers were done", done, transfers)
	}
	fmt.Printf("%d transfers tried: %d in all, as before\n", transfers, sum)
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
