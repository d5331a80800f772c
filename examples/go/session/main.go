// Session runs a transaction of several statements: it reads two rows with locks, decides, writes, commits. Who loses
// against an older one tries again with its age, and so wins in the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"twofold/bank"
	pb "twofold/v1"
)

const table = "example_session"

// aborted says that the transaction is to be run again, with this age.
type aborted struct {
	age     uint64
	message string
}

func (a *aborted) Error() string { return a.message }

// statement sends a statement and waits for its answer.
func statement(session pb.Twofold_SessionClient, request *pb.SessionRequest) (*pb.SessionResponse, error) {
	if err := session.Send(request); err != nil {
		return nil, err
	}
	answer, err := session.Recv()
	if err != nil {
		return nil, err
	}
	if failure := answer.GetError(); failure != nil {
		if failure.GetTemporary() && answer.GetState() == pb.State_ABORTED {
			return nil, &aborted{age: answer.GetAge(), message: failure.GetMessage()}
		}
		return nil, errors.New(failure.GetMessage())
	}
	return answer, nil
}

// evenOut gives two accounts the same balance, as far as that goes; it returns what was moved.
func evenOut(session pb.Twofold_SessionClient, one, other int64, age uint64) (int64, error) {
	answer, err := statement(session, &pb.SessionRequest{Begin: true, Age: age, Operations: []*pb.Operation{
		bank.Read(table, one, pb.Lock_LOCK_EXCLUSIVE),
		bank.Read(table, other, pb.Lock_LOCK_EXCLUSIVE),
	}})
	if err != nil {
		return 0, err
	}
	amount := (bank.Balance(answer.GetResults()[0]) - bank.Balance(answer.GetResults()[1])) / 2
	_, err = statement(session, &pb.SessionRequest{End: pb.End_COMMIT, Operations: []*pb.Operation{
		bank.Add(table, one, -amount),
		bank.Add(table, other, amount),
	}})
	return amount, err
}

func run(ctx context.Context) error {
	api, err := bank.Connect()
	if err != nil {
		return err
	}
	if err := bank.OpenAccounts(ctx, api, table); err != nil {
		return err
	}
	bonus := &pb.ExecuteRequest{Operations: []*pb.Operation{bank.Add(table, 1, 500)}}
	if _, err := bank.Execute(ctx, api, bonus); err != nil {
		return err
	}
	session, err := api.Session(ctx)
	if err != nil {
		return err
	}
	age := uint64(0)
	for attempt := 0; attempt < bank.Attempts; attempt++ {
		moved, err := evenOut(session, 1, 2, age)
		var again *aborted
		switch {
		case err == nil:
			fmt.Printf("%d moved\n", moved)
			return session.CloseSend()
		case errors.As(err, &again):
			age = again.age
		default:
			return err
		}
	}
	return errors.New("the transaction has been aborted too often")
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
