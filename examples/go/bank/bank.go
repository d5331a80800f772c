// Package bank is what the examples share: a connection, a table of accounts, and when to try again.
package bank

import (
	"context"
	"math/rand"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "twofold/v1"
)

const (
	// Accounts is how many rows a table of accounts has.
	Accounts = 100
	// OpeningBalance is what is in each of them at first.
	OpeningBalance = 1000
	// Attempts is how often a call is made at most.
	Attempts = 20
	// Deadline is how long a call may take.
	Deadline = 5 * time.Second
)

// Connect returns the API at the address in TWOFOLD_API.
func Connect() (pb.TwofoldClient, error) {
	address := os.Getenv("TWOFOLD_API")
	if address == "" {
		address = "127.0.0.1:50051"
	}
	connection, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	return pb.NewTwofoldClient(connection), nil
}

// Number is an integer as a column holds it.
func Number(value int64) *pb.Value {
	return &pb.Value{Kind: &pb.Value_IntValue{IntValue: value}}
}

// Balance is the balance that an operation returned.
func Balance(result *pb.Result) int64 {
	return result.GetRow().GetColumns()["balance"].GetIntValue()
}

// Read reads an account.
func Read(table string, id int64, lock pb.Lock) *pb.Operation {
	read := &pb.Read{Key: []*pb.Value{Number(id)}, Lock: lock}
	return &pb.Operation{Table: table, Kind: &pb.Operation_Read{Read: read}}
}

// Add adds to an account, if these conditions hold.
func Add(table string, id, amount int64, conditions ...*pb.Condition) *pb.Operation {
	update := &pb.Update{
		Key:         []*pb.Value{Number(id)},
		Assignments: &pb.Assignments{Add: map[string]*pb.Value{"balance": Number(amount)}},
		Conditions:  conditions,
	}
	return &pb.Operation{Table: table, Kind: &pb.Operation_Update{Update: update}}
}

// BalanceFrom is the condition that an account has at least so much.
func BalanceFrom(least int64) *pb.Condition {
	compare := &pb.Condition_Compare{
		Column:     "balance",
		Comparator: pb.Comparator_GREATER_OR_EQUAL,
		Value:      Number(least),
	}
	return &pb.Condition{Kind: &pb.Condition_Compare_{Compare: compare}}
}

// OpenAccounts makes a table with Accounts rows of OpeningBalance each, whatever was in it before.
func OpenAccounts(ctx context.Context, api pb.TwofoldClient, table string) error {
	definition := &pb.TableDefinition{
		Name: table,
		Columns: []*pb.ColumnDefinition{
			{Name: "id", Type: pb.ColumnType_INT32},
			{Name: "balance", Type: pb.ColumnType_INT64},
		},
		PrimaryKey: []string{"id"},
	}
	create := &pb.CreateTableRequest{Table: definition, IfNotExists: true}
	if _, err := api.CreateTable(ctx, create, grpc.WaitForReady(true)); err != nil {
		return err
	}
	var writes []*pb.Operation
	for id := int64(0); id < Accounts; id++ {
		write := &pb.Write{Row: map[string]*pb.Value{"id": Number(id), "balance": Number(OpeningBalance)}}
		writes = append(writes, &pb.Operation{Table: table, Kind: &pb.Operation_Write{Write: write}})
	}
	_, err := Execute(ctx, api, &pb.ExecuteRequest{Operations: writes})
	return err
}

// Execute runs operations, again and again while that may help.
func Execute(ctx context.Context, api pb.TwofoldClient, request *pb.ExecuteRequest) (*pb.ExecuteResponse, error) {
	var response *pb.ExecuteResponse
	err := Retrying(ctx, func(ctx context.Context) (err error) {
		response, err = api.Execute(ctx, request)
		return err
	})
	return response, err
}

// Retrying makes a call, and makes it again while its error says that this may help: nothing was applied then.
func Retrying(ctx context.Context, call func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		timed, cancel := context.WithTimeout(ctx, Deadline)
		err := call(timed)
		cancel()
		if err == nil || attempt == Attempts || !mayRetry(err) {
			return err
		}
		backoff := time.Millisecond << min(attempt, 6)
		time.Sleep(retryDelay(err) + time.Duration(rand.Int63n(int64(backoff))))
	}
}

func mayRetry(err error) bool {
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.ResourceExhausted:
		return true
	}
	return false
}

// retryDelay is how long the server asks to wait; mostly it does not.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
