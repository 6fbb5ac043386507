//! Turns movie's replies in the log into commands, a batch at a time.

use service_kit::messaging::{Delivery, EventHandler, Fault};
use shared_events::Event;
use sqlx::PgConnection;
use tracing::warn;

use crate::reservation::{Answer, Command, Input, Writes};
use crate::unit_of_work::UnitOfWork;

pub struct Handler {
    pub unit_of_work: UnitOfWork,
}

impl EventHandler for Handler {
    type Effects = Writes;

    async fn apply(&self, connection: &mut PgConnection, deliveries: &[&Delivery]) -> Result<Writes, Fault> {
        let inputs: Vec<Input> = deliveries.iter().filter_map(|delivery| input(delivery)).collect();
        if inputs.is_empty() {
            return Ok(Writes::default());
        }
        let writes = self.unit_of_work.execute_in(connection, &inputs).await?;
        for (input, answer) in inputs.iter().zip(&writes.answers) {
            if *answer == Answer::NotFound {
                self.unit_of_work.metrics.unknown_replies.inc();
                warn!(reservation.id = %input.id, "a reply about a reservation that does not exist");
            }
        }
        Ok(writes)
    }

    fn committed(&self, writes: Writes) {
        self.unit_of_work.after_commit(&writes);
    }
}

/// The command of an event; `None` if the event doesn't concern a reservation's status.
pub fn input(delivery: &Delivery) -> Option<Input> {
    let (id, command) = match &delivery.event {
        Event::TicketsAllocated(allocated) => {
            (allocated.reservation_id, Command::Confirm { movie_name: allocated.movie_name.clone() })
        }
        Event::AllocationRejected(rejected) => (
            rejected.reservation_id,
            Command::Reject { reason: rejected.reason, movie_name: rejected.movie_name.clone() },
        ),
        // Follows a cancellation: the reservation has ended already.
        Event::TicketsReleased(_) => return None,
        // Concern the catalogue only.
        Event::MoviePublished(_) | Event::MovieUpdated(_) | Event::TicketsAdded(_) => return None,
        // This service's own events, which belong to the other topic.
        Event::ReservationPlaced(_) | Event::ReservationConfirmed(_) | Event::ReservationCancelled(_) => {
            return None;
        }
    };
    Some(Input { id, command, origin: delivery.origin() })
}
