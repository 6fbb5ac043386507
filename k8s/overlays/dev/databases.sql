-- A database for each service, and a role that owns only this database.
create role reservation login password 'theater';
create database reservation owner reservation;
create role movie login password 'theater';
create database movie owner movie;
create role notification login password 'theater';
create database notification owner notification;
create role reservation_list login password 'theater';
create database reservation_list owner reservation_list;
revoke connect on database reservation, movie, notification, reservation_list from public;
